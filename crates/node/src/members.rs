//! Whom etcd or DNS named last, in a file of the node's own directory: used at the next start until they answer.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use feedline_cluster::Memory;
use parking_lot::Mutex;
use tokio::runtime::Handle;

use crate::files;

/// Its name in the directory.
const FILE: &str = "members";

/// See the module's head.
#[derive(Debug)]
pub(crate) struct MembersFile {
    /// Held while it is written: two writers would write one file.
    file: Arc<Mutex<PathBuf>>,
    tasks: Handle,
}

impl MembersFile {
    /// The one in this directory.
    pub(crate) fn of(state_dir: &std::path::Path, tasks: &Handle) -> Arc<Self> {
        let file = Arc::new(Mutex::new(state_dir.join(FILE)));
        Arc::new(Self { file, tasks: tasks.clone() })
    }
}

#[async_trait]
impl Memory for MembersFile {
    fn recall(&self) -> Option<Vec<u8>> {
        let file = self.file.lock();
        match std::fs::read(&*file) {
            Ok(bytes) => Some(bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                tracing::warn!(file = %file.display(), %error, "cannot be read: as if it were not there");
                None
            }
        }
    }

    async fn keep(&self, bytes: Vec<u8>) {
        let file = Arc::clone(&self.file);
        let written = self.tasks.spawn_blocking(move || {
            let file = file.lock();
            if let Err(error) = files::replace(&file, &bytes, true) {
                tracing::warn!(
                    file = %file.display(), %error,
                    "cannot be written: a start while etcd or DNS is silent will not know the other nodes"
                );
            }
        });
        // An error means that the node ends.
        let _ = written.await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_kept_last_is_recalled_and_a_file_that_cannot_be_had_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let members = || MembersFile::of(dir.path(), &Handle::current());
        assert_eq!(members().recall(), None);
        members().keep(b"first".to_vec()).await;
        members().keep(b"second".to_vec()).await;
        assert_eq!(members().recall(), Some(b"second".to_vec()));
        let names: Vec<_> = std::fs::read_dir(dir.path()).unwrap().collect();
        assert_eq!(names.len(), 1, "{names:?}");
        std::fs::remove_file(dir.path().join(FILE)).unwrap();
        std::fs::create_dir(dir.path().join(FILE)).unwrap();
        assert_eq!(members().recall(), None);
        // Said, and no failure.
        members().keep(b"third".to_vec()).await;
        assert_eq!(members().recall(), None);
    }
}
