//! A folder listed by the other nodes as well: each lists the bucket itself, as it would at the first read there.
//!
//! A listing is not sent from node to node: it would have to be believed for as long as the one who listed may, by a
//! node that mounts other parts of the bucket, and it saves only LISTs that each node makes once in an epoch.

use feedline_cluster::Cluster;
use feedline_gateway::ApiError;
use feedline_model::Tree as _;
use futures::StreamExt as _;

use super::NodeAdmin;
use super::others::Others;
use super::question::{Place, Question, Told};

/// Has every other node list what lies at a path of this node's tree. Who did not, and why.
pub(crate) async fn list_elsewhere(
    cluster: &Cluster,
    path: &str,
    mounted: &[(String, u64, String)],
) -> Vec<(String, String)> {
    let mut others = Others::of(cluster).await;
    let question = Question::List { places: Place::of_path(path, mounted) };
    others.order(&question).await;
    others.unheard().into_iter().map(|it| (it.address, it.why)).collect()
}

impl NodeAdmin {
    /// Lists what is mounted here of these places: how many files that are, and their bytes.
    pub(super) async fn list_these(&self, places: &[Place]) -> Told {
        let mounted = self.mounted_places();
        let paths: Vec<_> = places.iter().flat_map(|place| place.paths(&mounted)).collect();
        if paths.is_empty() {
            return Told::Failed { message: "it does not mount this".into() };
        }
        let (mut files, mut bytes) = (0, 0);
        for path in paths {
            let mut listed = self.list_below(&path).await;
            if listed.as_ref().is_err_and(|error| error.kind == "not_found") {
                // Who asks has seen it: the listing here is older.
                let above = path.rsplit_once('/').map_or("", |(parent, _)| parent);
                self.chain.namespace.expire(above);
                listed = self.list_below(&path).await;
            }
            match listed {
                Ok((more, size)) => (files, bytes) = (files + more, bytes + size),
                Err(error) => return Told::Failed { message: error.message },
            }
        }
        Told::Listed { files, bytes }
    }

    async fn list_below(&self, path: &str) -> Result<(u64, u64), ApiError> {
        let (mut files, mut bytes) = (0, 0);
        let mut batches = std::pin::pin!(self.objects_below(path).await?);
        while let Some(batch) = batches.next().await {
            let (directory, objects) = batch?;
            files += objects.len() as u64;
            let sizes = objects.into_iter().filter_map(|index| directory.object(index));
            bytes += sizes.map(|object| object.version.size).sum::<u64>();
        }
        Ok((files, bytes))
    }
}
