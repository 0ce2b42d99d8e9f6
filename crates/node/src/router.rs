//! A link with several next ones: an object's source says which store has its bytes.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use feedline_model::{BlockSource, Object, Priority, ReadError, SourceId};

/// Sends each read to the store of its object's source.
#[derive(Debug)]
pub(crate) struct Router {
    stores: HashMap<SourceId, Arc<dyn BlockSource>>,
}

impl Router {
    pub(crate) fn new(stores: HashMap<SourceId, Arc<dyn BlockSource>>) -> Self {
        Self { stores }
    }
}

#[async_trait]
impl BlockSource for Router {
    async fn read(
        &self,
        object: &Object,
        range: Range<u64>,
        priority: Priority,
    ) -> Result<Bytes, ReadError> {
        match self.stores.get(&object.source) {
            Some(store) => store.read(object, range, priority).await,
            // An object reaches us through a listing, and only these stores are listed.
            None => Err(ReadError::Rejected {
                location: Arc::clone(&object.key),
                cause: format!("its bucket ({:?}) is not mounted", object.source).into(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use feedline_model::{ETag, Version};

    #[derive(Debug)]
    struct Says(&'static [u8]);

    #[async_trait]
    impl BlockSource for Says {
        async fn read(
            &self,
            _: &Object,
            range: Range<u64>,
            _: Priority,
        ) -> Result<Bytes, ReadError> {
            Ok(Bytes::from_static(&self.0[range.start as usize..range.end as usize]))
        }
    }

    #[tokio::test]
    async fn each_object_is_read_from_its_own_bucket() {
        let stores: [(SourceId, Arc<dyn BlockSource>); 2] =
            [(SourceId(1), Arc::new(Says(b"one"))), (SourceId(2), Arc::new(Says(b"two")))];
        let router = Router::new(stores.into());
        let object = |source| Object {
            source: SourceId(source),
            key: "k".into(),
            version: Version { size: 3, modified_ms: 0, etag: ETag::Absent },
        };
        for (source, bytes) in [(1, &b"one"[..]), (2, b"two")] {
            let read = router.read(&object(source), 0..3, Priority::Demand).await.unwrap();
            assert_eq!(&read[..], bytes);
        }
        let refused = router.read(&object(3), 0..3, Priority::Demand).await.unwrap_err();
        assert!(matches!(refused, ReadError::Rejected { .. }));
    }
}
