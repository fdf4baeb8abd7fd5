//! Where an image may come from: mirrors first, its own registry last, each with what the operator wrote about
//! it. Files are read anew each time, so that a new password counts at once.

use std::sync::Arc;

use oci_spec::distribution::Reference;
use sha2::{Digest, Sha256};

use super::registry::{FetchError, Place, Registry};
use super::{Images, credentials};
use crate::runtime::containerd::digest_text;

impl Images {
    /// Those that may be asked for an image, in the order in which they are asked.
    pub(super) fn registries(&self, name: &Reference) -> Result<Vec<Arc<Registry>>, FetchError> {
        let stall = self.settings.stall_timeout.0;
        self.places(name)?.into_iter().map(|place| Registry::new(place, stall)).collect()
    }

    /// Stands for whom we say that we are to those who may be asked; none when we say nothing to any of them.
    pub(super) fn fingerprint(&self, name: &Reference) -> Result<Option<String>, FetchError> {
        let places = self.places(name)?;
        if places.iter().all(|place| place.credentials.is_none()) {
            return Ok(None);
        }
        let mut hash = Sha256::new();
        for place in &places {
            let identity = place.credentials.as_ref().map(|credentials| credentials.words());
            for word in [place.host.as_str()].into_iter().chain(identity.into_iter().flatten()) {
                hash.update((word.len() as u64).to_le_bytes());
                hash.update(word);
            }
        }
        Ok(Some(digest_text(hash)))
    }

    /// Where an image may come from: mirrors first, its own registry last.
    fn places(&self, name: &Reference) -> Result<Vec<Place>, FetchError> {
        let registry = name.registry();
        let own = self.registry_settings.iter().find(|settings| settings.host == registry);
        let mirrors = own.map(|settings| settings.mirrors.as_slice()).unwrap_or_default();
        let mut places = Vec::new();
        for mirror in mirrors {
            let (host, prefix) = mirror.split_once('/').unwrap_or((mirror, ""));
            let mut place = self.place(host)?;
            if !prefix.is_empty() {
                place.prefix = format!("{}/", prefix.trim_end_matches('/'));
            }
            place.mirror_of = Some(registry.to_owned());
            places.push(place);
        }
        places.push(self.place(registry)?);
        Ok(places)
    }

    fn place(&self, host: &str) -> Result<Place, FetchError> {
        let settings = self.registry_settings.iter().find(|settings| settings.host == host);
        let authorities = settings.and_then(|settings| settings.ca_file.as_ref());
        let authorities = authorities.map(|file| {
            std::fs::read(file)
                .map_err(|error| FetchError::Refused(format!("{} cannot be read: {error}", file.display())))
        });
        Ok(Place {
            // The name of Docker's registry is not where it is.
            host: if host == "docker.io" { "registry-1.docker.io" } else { host }.to_owned(),
            prefix: String::new(),
            mirror_of: None,
            plain_http: settings.is_some_and(|settings| settings.plain_http),
            authorities: authorities.transpose()?,
            credentials: credentials::find(&self.settings, settings, host).map_err(FetchError::Refused)?,
        })
    }
}
