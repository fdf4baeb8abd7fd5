//! Images that are made for several kinds of machine, from a real registry: the part for this one is pulled and
//! runs, and one that has none is refused.

use serde_json::json;
use teamster_agent::config::ImageSettings;
use teamster_agent::runtime::{Containerd, Programs, Runtime, RuntimeError};
use teamster_integration::image::TestImage;
use teamster_integration::pieces::{Packing, Pieces, architecture, index};
use teamster_integration::registry::PrivateRegistry;

use crate::puller::plain_http;
use crate::stand::Stand;

#[tokio::test]
async fn of_many_platforms_the_one_of_this_machine_is_pulled() {
    let registry = PrivateRegistry::start(None);
    let Some(mut stand) = Stand::new().await else { return };
    // Each says what it is; only what is picked may come.
    let image = |platform: &str, architecture: &str, variant: Option<&str>| {
        let made =
            TestImage::named("unused").script("/bin/which-one", &format!("#!/bin/sh\necho {platform}\n"));
        let mut config = made.config();
        config["architecture"] = json!(architecture);
        let pieces = Pieces::new(&[(Packing::Gzip, made.layer())], config);
        let entry = pieces.for_machine(architecture, variant);
        (pieces, entry)
    };
    let here = architecture();
    // What is better than having no variant, and what this machine may not be able to run.
    let (plain, better, too_new) =
        if here == "arm64" { (None, Some("v8"), "v9") } else { (Some("v1"), None, "v4") };
    let others = [("arm", Some("v6")), ("arm", Some("v7")), ("s390x", None), ("386", None)];
    let foreign = if here == "arm64" { ("amd64", None) } else { ("arm64", Some("v8")) };
    let mut entries = Vec::new();
    for (architecture, variant) in others.into_iter().chain([foreign]) {
        let (pieces, entry) = image("another", architecture, variant);
        registry.push_image("lab/tool", &format!("{architecture}{}", variant.unwrap_or("")), &pieces).await;
        entries.push(entry);
    }
    let only_others = registry.push("lab/tool", "only-others", &[], &index(&entries)).await;
    for (name, variant) in [("too-new", Some(too_new)), ("plain", plain), ("better", better)] {
        let (pieces, entry) = image(name, here, variant);
        registry.push_image("lab/tool", name, &pieces).await;
        entries.push(entry);
        if name == "too-new" {
            registry.push("lab/tool", "only-too-new", &[], &index(&entries)).await;
        }
        if name == "plain" {
            registry.push("lab/tool", "with-plain", &[], &index(&entries)).await;
        }
    }
    // What builders add and nobody can run.
    let (pieces, mut attestation) = image("attestation", "unknown", None);
    attestation["platform"]["os"] = json!("unknown");
    registry.push_image("lab/tool", "attestation", &pieces).await;
    entries.insert(0, attestation);
    registry.push("lab/tool", "all", &[], &index(&entries)).await;

    let rules = plain_http(&registry.host());
    stand.runtime = Containerd::pulling(&stand.containerd.socket(), ImageSettings::default(), vec![rules])
        .with_programs(Programs::install(stand.home.path()).unwrap());
    let at = |tag: &str| format!("{}/lab/tool:{tag}", registry.host());
    for (tag, expected) in [("with-plain", "plain"), ("all", "better")] {
        let found = stand.runtime.image(&at(tag)).await.unwrap();
        let mut spec = stand.container(&["/bin/which-one"]).await;
        spec.image = found;
        assert_eq!(stand.run(&spec).await.stdout, format!("{expected}\n"), "{tag}");
    }
    let by_digest = format!("{}/lab/tool@{only_others}", registry.host());
    for reference in [at("only-others"), at("only-too-new"), by_digest] {
        let error = stand.runtime.image(&reference).await.unwrap_err();
        assert!(matches!(error, RuntimeError::ImageUnusable { .. }), "{reference}: {error:?}");
        let text = error.to_string();
        let made_for = ["linux/arm/v6", "linux/arm/v7", "linux/s390x"];
        assert!(made_for.iter().all(|platform| text.contains(platform)), "{text}");
        assert!(text.contains(&format!("not made for linux/{here}")), "{text}");
        assert_eq!(
            text.contains(&format!("linux/{here}/{too_new}")),
            reference == at("only-too-new"),
            "{text}"
        );
    }
}
