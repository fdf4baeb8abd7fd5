//! Images that come from registries: a real one, with and without a password, and one that misbehaves.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};
use teamster_agent::config::{ImageSettings, PullPolicy, RegistrySettings};
use teamster_agent::runtime::{Containerd, Image, Programs, Runtime, RuntimeError};
use teamster_integration::cluster::eventually;
use teamster_integration::image::TestImage;
use teamster_integration::odd_registry::{OddRegistry, Oddity};
use teamster_integration::pieces::{
    INDEX, MANIFEST, Packing, Pieces, architecture, descriptor, digest, index,
};
use teamster_integration::registry::PrivateRegistry;
use teamster_values::{ByteCount, Period};

use crate::puller::{Puller, odd, pieces};
use crate::stand::Stand;

#[tokio::test]
async fn an_image_is_pulled_from_a_real_registry_and_runs() {
    let registry = PrivateRegistry::start(None);
    let Some(mut stand) = Stand::new().await else { return };
    // Two layers of two kinds, below an index.
    let base = TestImage::named("unused").env("PULLED=yes");
    let top = TestImage::named("unused").script("/bin/hello", "#!/bin/sh\necho hello\n");
    let layers = [(Packing::Gzip, base.layer()), (Packing::Zstd, top.layer())];
    let image = Pieces::new(&layers, base.config());
    registry.push_image("lab/tool", "one", &image).await;
    let many = index(&[image.for_machine(architecture(), None)]);
    let index_digest = registry.push("lab/tool", "many", &[], &many).await;

    let reference = format!("docker://{}/lab/tool:many", registry.host());
    let rules = RegistrySettings { host: registry.host(), plain_http: true, ..Default::default() };
    let socket = stand.containerd.socket();
    let home = stand.home.path().to_owned();
    let runtime = || {
        let runtime = Containerd::pulling(&socket, ImageSettings::default(), vec![rules.clone()]);
        runtime.with_programs(Programs::install(&home).unwrap())
    };
    stand.runtime = runtime();
    let found = stand.runtime.image(&reference).await.unwrap();
    assert_eq!(found.digest, index_digest);
    assert!(found.env.contains(&"PULLED=yes".to_owned()) && found.entrypoint == ["/bin/false"]);
    let pulled = found.pulled.clone().unwrap();
    assert!(pulled.fetched_bytes > 500_000 && pulled.from == registry.host(), "{pulled:?}");
    let mut spec = stand.container(&["/bin/hello"]).await;
    spec.image = found.clone();
    assert_eq!(stand.run(&spec).await.stdout, "hello\n");
    // The second time it is here, and containerd's garbage collector leaves it so.
    stand.containerd.restart();
    stand.runtime = runtime();
    assert_eq!(stand.runtime.image(&reference).await.unwrap(), Image { pulled: None, ..found });
    // Under its digest it is another name, for which nothing large is fetched again.
    let pinned = format!("{}/lab/tool@{index_digest}", registry.host());
    let pinned = stand.runtime.image(&pinned).await.unwrap().pulled.unwrap();
    assert_eq!((pinned.fetched_bytes, pinned.present_bytes > 500_000), (0, true));
}

#[tokio::test]
async fn a_password_is_shown_where_one_is_wanted() {
    let registry = PrivateRegistry::start(Some(("me", "secret")));
    let Some(mut puller) = Puller::new(&registry.host()) else { return };
    let pieces = pieces();
    registry.push_image("lab/tool", "1", &pieces).await;
    let reference = format!("{}/lab/tool:1", registry.host());
    let refused = puller.image(&reference).await.unwrap_err();
    assert!(matches!(refused, RuntimeError::ImageUnauthorized { .. }), "{refused}");
    assert!(refused.to_string().contains("authentication required"), "{refused}");

    let file = puller.containerd.home().join("password");
    std::fs::write(&file, "wrong\n").unwrap();
    puller.registry.username = Some("me".into());
    puller.registry.password_file = Some(file.clone());
    assert!(matches!(puller.image(&reference).await, Err(RuntimeError::ImageUnauthorized { .. })));
    std::fs::write(&file, "secret\n").unwrap();
    puller.image(&reference).await.unwrap();

    // The same from a docker configuration, on a node that has nothing.
    let mut other = Puller::new(&registry.host()).unwrap();
    other.settings.docker_config = Some(registry.docker_config());
    other.image(&reference).await.unwrap();
}

#[tokio::test]
async fn a_token_is_fetched_where_one_is_wanted() {
    let (registry, _) = odd().await;
    let Some(mut puller) = Puller::new(registry.host()) else { return };
    // printf 'me:secret' | base64
    registry.want_token("Basic bWU6c2VjcmV0");
    let reference = format!("{}/lab/tool:1", registry.host());
    let refused = puller.image(&reference).await.unwrap_err();
    assert!(matches!(refused, RuntimeError::ImageUnauthorized { .. }), "{refused}");
    assert!(refused.to_string().contains("incorrect username or password"), "{refused}");
    let file = puller.containerd.home().join("password");
    std::fs::write(&file, "secret").unwrap();
    puller.registry.username = Some("me".into());
    puller.registry.password_file = Some(file);
    puller.image(&reference).await.unwrap();
    assert_eq!(registry.requests("/token").len(), 2, "one that was refused, and one token for all requests");
}

#[tokio::test]
async fn what_stays_wrong_fails_at_once_in_the_registrys_words() {
    let (registry, pieces) = odd().await;
    let Some(mut puller) = Puller::new(registry.host()) else { return };
    let at = |tag: &str| format!("{}/lab/tool:{tag}", registry.host());
    let put = |tag: &str, change: &dyn Fn(&mut Value)| {
        let mut manifest = pieces.manifest.clone();
        change(&mut manifest);
        registry.put(&format!("lab/tool/manifests/{tag}"), MANIFEST, manifest.to_string().as_bytes());
    };
    put("urls", &|m| m["layers"][0]["urls"] = json!(["http://169.254.169.254/"]));
    put("odd-type", &|m| m["layers"][0]["mediaType"] = json!("application/vnd.erofs"));
    put("huge", &|m| m["layers"][0]["size"] = json!(1_u64 << 50));
    put("small", &|m| m["layers"][0]["size"] = json!(1000));
    let platform = json!({"os": "linux", "architecture": "s390x"});
    let mut other = descriptor(MANIFEST, b"{}");
    other["platform"] = platform;
    registry.put("lab/tool/manifests/other", INDEX, index(&[other]).to_string().as_bytes());
    let nested = index(&[]).to_string();
    registry.put(&format!("lab/tool/manifests/{}", digest(nested.as_bytes())), INDEX, nested.as_bytes());
    let outer = index(&[descriptor(INDEX, nested.as_bytes())]);
    registry.put("lab/tool/manifests/nested", INDEX, outer.to_string().as_bytes());
    registry.put("lab/tool/manifests/bytes", MANIFEST, &vec![b' '; 5 << 20]);
    registry
        .next("lab/tool/manifests/denied", Oddity::Status(403, r#"{"errors":[{"code":"DENIED"}]}"#.into()));

    for (tag, words) in [
        ("urls", "urls"),
        ("odd-type", "application/vnd.erofs"),
        ("huge", "images.size_max"),
        ("small", "more than the 1000 bytes"),
        ("other", "linux/s390x"),
        ("nested", "another index"),
        ("bytes", "manifest has more than"),
    ] {
        let error = puller.image(&at(tag)).await.expect_err(tag);
        assert!(matches!(error, RuntimeError::ImageUnusable { .. }), "{tag}: {error:?}");
        assert!(error.to_string().contains(words), "{tag}: {error}");
        assert_eq!(registry.requests(&format!("/{tag}")).len(), 1, "{tag} is not asked for again");
    }
    let denied = puller.image(&at("denied")).await.unwrap_err();
    assert!(matches!(&denied, RuntimeError::ImageUnauthorized { reason, .. } if reason.contains("DENIED")));
    let missing = puller.image(&at("nowhere")).await.unwrap_err();
    assert!(
        matches!(&missing, RuntimeError::ImageNotFound { reason, .. } if reason.contains("no such thing"))
    );
    puller.settings.unpacked_max = ByteCount(1000);
    let error = puller.image(&at("1")).await.unwrap_err().to_string();
    assert!(error.contains("images.unpacked_max"), "{error}");
    assert!(puller.is_empty().await, "nothing is left of what was refused");
}

#[tokio::test]
async fn a_lie_about_a_digest_is_found_and_forgotten() {
    let (registry, pieces) = odd().await;
    let Some(puller) = Puller::new(registry.host()) else { return };
    let blob = format!("lab/tool/blobs/{}", digest(&pieces.layers[0]));
    let mut lie = pieces.layers[0].clone();
    lie[5000] ^= 1;
    registry.next(&blob, Oddity::Lie(lie));
    let reference = format!("{}/lab/tool:1", registry.host());
    let error = puller.image(&reference).await.unwrap_err();
    assert!(matches!(error, RuntimeError::ImageUnusable { .. }), "{error:?}");
    assert!(error.to_string().contains("sent something else"), "{error}");
    assert!(puller.is_empty().await);
    // It says the truth now, and nothing of the lie is in the way.
    puller.image(&reference).await.unwrap();
    let wrong = format!("{}/lab/tool@sha256:{}", registry.host(), "b".repeat(64));
    registry.put(&format!("lab/tool/manifests/sha256:{}", "b".repeat(64)), MANIFEST, b"{}");
    assert!(puller.image(&wrong).await.unwrap_err().to_string().contains("sent something else"));
}

#[tokio::test]
async fn what_passes_is_tried_again_and_goes_on_where_it_broke_off() {
    let (registry, pieces) = odd().await;
    let Some(mut puller) = Puller::new(registry.host()) else { return };
    puller.settings.stall_timeout = Period(Duration::from_secs(1));
    registry.next("lab/tool/manifests/1", Oddity::Status(429, "slow down".into()));
    registry.next("lab/tool/manifests/1", Oddity::Status(500, String::new()));
    let blob = format!("lab/tool/blobs/{}", digest(&pieces.layers[0]));
    registry.next(&blob, Oddity::CutAfter(300_000));
    registry.next(&blob, Oddity::Silence);
    registry.next(&blob, Oddity::CutAfter(100_000));
    let found = puller.image(&format!("{}/lab/tool:1", registry.host())).await.unwrap();
    assert_eq!(found.pulled.unwrap().fetched_bytes, (pieces.layers[0].len() + pieces.config.len()) as u64);
    let ranges: Vec<_> = registry
        .requests(&digest(&pieces.layers[0]))
        .iter()
        .map(|line| line.split(' ').nth(2).unwrap_or("").to_owned())
        .collect();
    assert_eq!(ranges, ["", "bytes=300000-", "bytes=300000-", "bytes=400000-"]);
}

#[tokio::test]
async fn parallel_wishes_share_one_pull() {
    let (registry, pieces) = odd().await;
    let Some(puller) = Puller::new(registry.host()) else { return };
    let (runtime, reference) = (puller.runtime(), format!("{}/lab/tool:1", registry.host()));
    let wishes = std::iter::repeat_with(|| runtime.image(&reference)).take(8);
    for found in futures_util::future::join_all(wishes).await {
        found.unwrap();
    }
    assert_eq!(registry.requests(&digest(&pieces.layers[0])).len(), 1);
}

#[tokio::test]
async fn the_nodes_own_rules_hold() {
    let (registry, _) = odd().await;
    let Some(mut puller) = Puller::new(registry.host()) else { return };
    let reference = format!("{}/lab/tool:1", registry.host());
    let refused = async |puller: &Puller| puller.image(&reference).await.unwrap_err().to_string();
    puller.settings.allowed = vec!["quay.io".into()];
    assert!(refused(&puller).await.contains("images.allowed"));
    puller.settings = ImageSettings { require_digest: true, ..ImageSettings::default() };
    assert!(refused(&puller).await.contains("images.require_digest"));
    puller.settings = ImageSettings { pull: PullPolicy::Never, ..ImageSettings::default() };
    assert!(refused(&puller).await.contains("images.pull"));
    assert!(registry.requests("").is_empty(), "the registry was not asked");

    // What the name stands for is looked at each time, and fetched only when it has changed.
    puller.settings = ImageSettings { pull: PullPolicy::Always, ..ImageSettings::default() };
    assert!(puller.image(&reference).await.unwrap().pulled.is_some());
    registry.next("lab/tool/manifests/1", Oddity::Status(404, String::new()));
    assert!(matches!(puller.image(&reference).await, Err(RuntimeError::ImageNotFound { .. })));

    // Without TLS only where that is written.
    puller.settings =
        ImageSettings { pull_timeout: Period(Duration::from_secs(3)), ..ImageSettings::default() };
    puller.registry.plain_http = false;
    let other = format!("{}/lab/tool:2", registry.host());
    assert!(matches!(
        puller.image(&other).await,
        Err(RuntimeError::PullFailed { .. } | RuntimeError::ImageUnusable { .. })
    ));
}

#[tokio::test]
async fn mirrors_are_asked_first_and_are_not_needed() {
    let (mirror, _) = odd().await;
    let (registry, pieces) = odd().await;
    let Some(mut puller) = Puller::new("registry.invalid") else { return };
    let mirror_rules =
        RegistrySettings { host: mirror.host().into(), plain_http: true, ..Default::default() };
    puller.registry = RegistrySettings {
        host: registry.host().into(),
        plain_http: true,
        mirrors: vec![mirror.host().into()],
        ..Default::default()
    };
    mirror.next(&format!("lab/tool/blobs/{}", digest(&pieces.layers[0])), Oddity::Status(404, String::new()));
    let rules = vec![puller.registry.clone(), mirror_rules];
    let runtime = Containerd::pulling(&puller.containerd.socket(), puller.settings.clone(), rules);
    let found = runtime.image(&format!("{}/lab/tool:1", registry.host())).await.unwrap();
    assert_eq!(found.pulled.unwrap().from, mirror.host());
    assert!(registry.requests("/1").is_empty());
    assert_eq!(
        registry.requests(&digest(&pieces.layers[0])).len(),
        1,
        "what the mirror lacks comes from behind it"
    );
}

#[tokio::test]
async fn a_registrys_own_certificate_authority_counts_where_it_is_named() {
    let registry = PrivateRegistry::start_tls();
    let Some(mut puller) = Puller::new(&registry.host()) else { return };
    let pieces = pieces();
    registry.push_image("lab/tool", "1", &pieces).await;
    let reference = format!("{}/lab/tool:1", registry.host());
    puller.registry.plain_http = false;
    let refused = puller.image(&reference).await.unwrap_err();
    assert!(refused.to_string().contains("certificate"), "{refused}");
    assert!(
        matches!(refused, RuntimeError::ImageUnusable { .. }),
        "asking again would not help: {refused:?}"
    );
    puller.registry.ca_file = Some(registry.authority());
    puller.image(&reference).await.unwrap();
}

#[tokio::test]
async fn credentials_stay_with_the_registry_that_they_are_for() {
    let (registry, pieces) = odd().await;
    let (storage, _) = odd().await;
    let Some(mut puller) = Puller::new(registry.host()) else { return };
    registry.want_token("Basic bWU6c2VjcmV0");
    let file = puller.containerd.home().join("password");
    std::fs::write(&file, "secret").unwrap();
    puller.registry.username = Some("me".into());
    puller.registry.password_file = Some(file);
    let blob = format!("lab/tool/blobs/{}", digest(&pieces.layers[0]));
    registry.next(&blob, Oddity::Redirect(format!("http://{}/v2/{blob}", storage.host())));
    puller.image(&format!("{}/lab/tool:1", registry.host())).await.unwrap();
    assert_eq!(storage.requests(&digest(&pieces.layers[0])).len(), 1);
    assert_eq!(storage.proofs(), [None], "who we are is not for whoever it sends us to");

    // Round in circles is given up at once.
    let manifest = format!("http://{}/v2/lab/tool/manifests/round", registry.host());
    for _ in 0..20 {
        registry.next("lab/tool/manifests/round", Oddity::Redirect(manifest.clone()));
    }
    let error = puller.image(&format!("{}/lab/tool:round", registry.host())).await.unwrap_err();
    assert!(error.to_string().contains("redirects too often"), "{error}");
    assert!(registry.requests("/round").len() < 10);
}

#[tokio::test]
async fn what_nobody_waits_for_any_more_is_given_up_and_goes_on_when_it_is_wanted_again() {
    let (registry, pieces) = odd().await;
    let Some(mut puller) = Puller::new(registry.host()) else { return };
    let layer = digest(&pieces.layers[0]);
    let blob = format!("lab/tool/blobs/{layer}");
    let reference = format!("{}/lab/tool:1", registry.host());
    puller.settings.stall_timeout = Period(Duration::from_secs(2));
    let runtime = puller.runtime();
    let dropped_in_the_middle = async {
        registry.next(&blob, Oddity::Stall(300_000));
        let mut pull = runtime.image(&reference);
        // The user cancels when the layer is under way.
        tokio::select! {
            done = &mut pull => panic!("{done:?}"),
            () = eventually_asked(&registry, &layer) => {}
        }
    };
    dropped_in_the_middle.await;
    runtime.sweep_images(&BTreeSet::new()).await.unwrap();
    assert!(puller.is_empty().await);

    // Killed in the middle, containerd keeps nothing that is in the way.
    registry.next(&blob, Oddity::Stall(300_000));
    let pull = runtime.image(&reference);
    tokio::pin!(pull);
    tokio::select! {
        done = &mut pull => panic!("{done:?}"),
        () = eventually_asked(&registry, &layer) => {}
    }
    puller.containerd.restart();
    // The agent asks again when containerd was away.
    let died = pull.await.unwrap_err();
    assert!(matches!(died, RuntimeError::Unavailable(_)), "{died:?}");
    runtime.image(&reference).await.unwrap();
}

/// Until a path that ends so has been asked for once more than before.
async fn eventually_asked(registry: &OddRegistry, end: &str) {
    let before = registry.requests(end).len();
    eventually("the registry is asked", async || (registry.requests(end).len() > before).then_some(())).await;
}
