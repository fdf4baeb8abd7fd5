//! Whom an image that lies on the node is given to: those whose node could have it now.

use std::collections::BTreeSet;
use std::time::Duration;

use teamster_agent::config::PullPolicy;
use teamster_agent::runtime::{Runtime, RuntimeError};
use teamster_integration::odd_registry::Oddity;
use teamster_integration::pieces::{MANIFEST, digest};
use teamster_integration::releases::{SUITES, containerd_of};
use teamster_values::Period;

use crate::puller::{Puller, odd};

/// `Basic` of `me:` and this password, for the few that these tests use.
fn basic(password: &str) -> &'static str {
    match password {
        "secret" => "Basic bWU6c2VjcmV0",
        "other" => "Basic bWU6b3RoZXI=",
        _ => unreachable!(),
    }
}

#[tokio::test]
async fn a_private_image_is_for_those_who_could_pull_it_now() {
    let (registry, pieces) = odd().await;
    let Some(mut puller) = Puller::new(registry.host()) else { return };
    let reference = format!("{}/lab/tool:1", registry.host());
    let manifest = pieces.manifest.to_string();
    let by_digest = format!("lab/tool/manifests/{}", digest(manifest.as_bytes()));
    registry.put(&by_digest, MANIFEST, manifest.as_bytes());
    let password = puller.containerd.home().join("password");
    std::fs::write(&password, "secret").unwrap();
    registry.want_token(basic("secret"));
    let anonymous = puller.registry.clone();
    puller.registry.username = Some("me".into());
    puller.registry.password_file = Some(password.clone());
    assert!(puller.image(&reference).await.unwrap().pulled.is_some());
    let asked = || registry.requests("").len();

    // The same credentials: the registry is not asked, it may even be gone.
    let before = asked();
    assert!(puller.image(&reference).await.unwrap().pulled.is_none());
    assert_eq!(asked(), before);

    // None any more: the image lies here, and is not given away.
    let with_password = std::mem::replace(&mut puller.registry, anonymous);
    let refused = puller.image(&reference).await.unwrap_err();
    assert!(matches!(refused, RuntimeError::ImageUnauthorized { .. }), "{refused:?}");
    // Only where the operator lets nothing be pulled, what lies here is what they put here.
    puller.settings.pull = PullPolicy::Never;
    puller.image(&reference).await.unwrap();
    puller.settings.pull = PullPolicy::IfMissing;

    // A new password: asked once whether it is good, and no more.
    puller.registry = with_password;
    std::fs::write(&password, "other").unwrap();
    assert!(matches!(puller.image(&reference).await, Err(RuntimeError::ImageUnauthorized { .. })));
    registry.want_token(basic("other"));
    assert!(puller.image(&reference).await.unwrap().pulled.is_none(), "nothing is fetched again");
    let before = asked();
    puller.image(&reference).await.unwrap();
    assert_eq!(asked(), before);

    // A registry that has it no more gives it to nobody, and so do we.
    std::fs::write(&password, "secret").unwrap();
    registry.want_token(basic("secret"));
    puller.image(&reference).await.unwrap();
    std::fs::write(&password, "other").unwrap();
    registry.want_token(basic("other"));
    registry.next(&by_digest, Oddity::Status(404, String::new()));
    assert!(matches!(puller.image(&reference).await, Err(RuntimeError::ImageNotFound { .. })));
}

#[tokio::test]
async fn a_public_image_needs_nobodys_leave() {
    let (registry, _) = odd().await;
    let Some(mut puller) = Puller::new(registry.host()) else { return };
    let reference = format!("{}/lab/tool:1", registry.host());
    puller.image(&reference).await.unwrap();
    let before = registry.requests("").len();
    let password = puller.containerd.home().join("password");
    std::fs::write(&password, "secret").unwrap();
    puller.registry.username = Some("me".into());
    puller.registry.password_file = Some(password);
    puller.image(&reference).await.unwrap();
    assert_eq!(registry.requests("").len(), before, "it was pulled without credentials");
}

#[tokio::test]
async fn other_releases_of_containerd_remember_as_much() {
    for (suite, version) in SUITES {
        let Some(programs) = containerd_of(suite, version) else { continue };
        let (registry, pieces) = odd().await;
        let Some(mut puller) = Puller::on(registry.host(), Some(&programs)) else { return };
        let manifest = pieces.manifest.to_string();
        let by_digest = format!("lab/tool/manifests/{}", digest(manifest.as_bytes()));
        registry.put(&by_digest, MANIFEST, manifest.as_bytes());
        let reference = format!("{}/lab/tool:1", registry.host());
        let password = puller.containerd.home().join("password");
        std::fs::write(&password, "secret").unwrap();
        puller.registry.username = Some("me".into());
        puller.registry.password_file = Some(password.clone());
        assert!(puller.image(&reference).await.unwrap().pulled.is_some(), "{suite}");
        std::fs::write(&password, "other").unwrap();
        puller.image(&reference).await.unwrap();
        let before = registry.requests("").len();
        assert!(puller.image(&reference).await.unwrap().pulled.is_none(), "{suite}");
        assert_eq!(registry.requests("").len(), before, "{suite}: what was granted is not noted");
        puller.settings.unused_max = Period(Duration::from_nanos(1));
        puller.settings.idle_min = Period(Duration::ZERO);
        puller.runtime().sweep_images(&BTreeSet::new()).await.unwrap();
        assert!(puller.is_empty().await, "{suite}");
    }
}
