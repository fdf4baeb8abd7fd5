//! Which images this node takes at all. Pure: nothing here knows what is on the node or in a registry. The
//! agent holds to it whatever the coordinator says.

use oci_spec::distribution::Reference;

use crate::config::{ImagePattern, ImageSettings};

/// Whether tasks may use this image; if not, which setting says so.
pub(super) fn check(settings: &ImageSettings, name: &Reference) -> Result<(), String> {
    if settings.require_digest && name.digest().is_none() {
        return Err(
            "this node takes images by digest only (images.require_digest): name it as NAME@sha256:…"
                .to_owned(),
        );
    }
    let covers = |pattern: &String| {
        ImagePattern::parse(pattern).is_ok_and(|pattern| pattern.covers(name.registry(), name.repository()))
    };
    if !settings.allowed.is_empty() && !settings.allowed.iter().any(covers) {
        return Err(format!(
            "this node takes images only from {} (images.allowed)",
            settings.allowed.join(", ")
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::normalise;
    use super::*;

    fn allowed(patterns: &[&str], reference: &str) -> bool {
        let allowed = patterns.iter().map(|&pattern| pattern.to_owned()).collect();
        let settings = ImageSettings { allowed, ..ImageSettings::default() };
        check(&settings, &normalise(reference).unwrap()).is_ok()
    }

    #[test]
    fn whole_components_are_compared() {
        assert!(allowed(&[], "anything/at-all"));
        assert!(allowed(&["quay.io/lab"], "quay.io/lab/tool:1"));
        assert!(allowed(&["docker.io", "quay.io"], "busybox"));
        assert!(allowed(&["docker.io/library/busybox"], "docker://busybox:1"));
        assert!(!allowed(&["quay.io/lab"], "quay.io/laboratory/tool"));
        assert!(!allowed(&["quay.io/lab"], "evil.example/quay.io/lab/tool"));
        assert!(!allowed(&["quay.io"], "quay.io.evil.example/lab/tool"));
        assert!(!allowed(&["quay.io"], "quay.io:444/lab/tool"));
        assert!(!allowed(&["docker.io/library"], "ubuntu2/x"));
    }

    #[test]
    fn a_digest_may_be_required() {
        let settings = ImageSettings { require_digest: true, ..ImageSettings::default() };
        let refused = check(&settings, &normalise("busybox:1").unwrap()).unwrap_err();
        assert!(refused.contains("images.require_digest"), "{refused}");
        let pinned = format!("busybox@sha256:{}", "a".repeat(64));
        check(&settings, &normalise(&pinned).unwrap()).unwrap();
    }
}
