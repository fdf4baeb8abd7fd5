//! Whether an image that lies here may be given to tasks: one that was pulled with credentials only for as long
//! as this node has the same ones, or the registry gives it to whom the node says that it is now.

use std::sync::Arc;

use containerd_client::services::v1::Image as Record;
use containerd_client::types::Descriptor;
use oci_spec::distribution::Reference;

use super::fetch::Source;
use super::registry::FetchError;
use super::store::{look_up, set_label};
use super::{Images, refused};
use crate::config::PullPolicy;
use crate::runtime::RuntimeError;
use crate::runtime::containerd::failure;

/// The label of an image record that came while credentials were configured; it stands for those.
pub(super) const CREDENTIALS_LABEL: &str = "teamster.io/pulled-with-credentials";

impl Images {
    /// Refuses an image that came with other credentials than this node has now, unless the registry gives it
    /// to the node as it is. An operator who lets nothing be pulled answers for what lies here.
    pub(super) async fn check_rights(
        &self,
        name: &Reference,
        record: &Record,
        target: &Descriptor,
    ) -> Result<(), RuntimeError> {
        let Some(shown) = record.labels.get(CREDENTIALS_LABEL) else { return Ok(()) };
        if self.settings.pull == PullPolicy::Never {
            return Ok(());
        }
        let now = self.fingerprint(name).map_err(|error| refused(&name.whole(), error))?;
        if now.as_ref() == Some(shown) {
            return Ok(());
        }
        tracing::info!(
            image = record.name,
            "this node's credentials have changed; asking the registry again"
        );
        self.ask_digest(name, &target.digest).await?;
        // Without credentials the label stays: others may be needed again.
        let Some(now) = now else { return Ok(()) };
        let noted = set_label(&self.link, record, CREDENTIALS_LABEL, now).await;
        noted.map_err(|status| failure("note who may use the image", &status))
    }

    /// Whether this node has what the name stands for in its registry now.
    pub(super) async fn is_current(&self, name: &Reference) -> Result<bool, RuntimeError> {
        let Some((_, target)) = look_up(&self.link, name).await? else { return Ok(false) };
        let wanted = name.digest().or(name.tag()).unwrap_or("latest");
        let digest = self.ask_digest(name, wanted).await?;
        Ok(digest.is_some_and(|digest| digest == target.digest))
    }

    /// Asks for the digest behind a tag or a digest, and thereby whether we may have it.
    async fn ask_digest(&self, name: &Reference, wanted: &str) -> Result<Option<String>, RuntimeError> {
        let source = Source {
            link: self.link.clone(),
            lease: String::new(),
            registries: self.registries(name).map_err(|error| refused(&name.whole(), error))?,
            repository: name.repository().to_owned(),
            progress: Arc::default(),
            deadline: self.settings.pull_timeout.0,
        };
        let asked = tokio::time::timeout(self.settings.pull_timeout.0, source.digest(wanted)).await;
        asked
            .unwrap_or_else(|_| {
                let text = "the registry takes too long to say what the name stands for".to_owned();
                Err(FetchError::Passing { text, retry_after: None })
            })
            .map_err(|error| refused(&name.whole(), error))
    }
}
