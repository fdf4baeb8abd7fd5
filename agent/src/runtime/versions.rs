//! How old the programs under the tasks may be, and which of them are older. Compares texts; asks nobody.

/// What runs containers, the least version that will do, and why it has to be that.
const LEAST: [(&str, &[u64], &str); 4] = [
    ("containerd", &[1, 6], "its API is older than what the agent speaks"),
    ("runc", &[1, 1], "what a task may only read would not all be read-only"),
    ("crun", &[1, 4], "what a task may only read would not all be read-only"),
    ("kernel", &[5, 12], "what a task may only read cannot be made read-only"),
];

/// The least version of a program that is known to do; none for what has no version.
pub fn least(program: &str) -> Option<String> {
    let (_, numbers, _) = LEAST.iter().find(|(name, ..)| *name == program)?;
    Some(numbers.iter().map(u64::to_string).collect::<Vec<_>>().join("."))
}

/// Those that are too old, in words. What cannot be read as a version is given the benefit of the doubt.
pub fn shortfalls<'a>(versions: impl IntoIterator<Item = (&'a str, &'a str)>) -> Vec<String> {
    let judge = |(program, version): (&str, &str)| {
        let (_, numbers, why) = LEAST.iter().find(|(name, ..)| *name == program)?;
        let found = parse(version)?;
        (found.as_slice() < *numbers).then(|| {
            format!("{program} {} or later (it has {version}: {why})", least(program).unwrap_or_default())
        })
    };
    versions.into_iter().filter_map(judge).collect()
}

/// The numbers at the beginning of texts such as `1.6.20~ds1`, `v2.1.9` and `6.1.0-18-amd64`.
fn parse(version: &str) -> Option<Vec<u64>> {
    let version = version.trim().trim_start_matches('v');
    let end = version.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(version.len());
    version[..end].trim_end_matches('.').split('.').map(|part| part.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_distributions_make_of_versions() {
        for (text, numbers) in [
            ("1.6.20~ds1", vec![1, 6, 20]),
            ("v2.1.9", vec![2, 1, 9]),
            ("6.1.0-18-amd64", vec![6, 1, 0]),
            ("1.1.5+ds1", vec![1, 1, 5]),
            ("2.0.0-rc.1", vec![2, 0, 0]),
        ] {
            assert_eq!(parse(text), Some(numbers), "{text}");
        }
        assert_eq!((parse(""), parse("unknown"), parse("1..2")), (None, None, None));
    }

    #[test]
    fn names_what_is_too_old_and_nothing_else() {
        let fine = [("containerd", "1.6.0"), ("runc", "1.1.0-rc.1"), ("kernel", "5.12.0"), ("cgroup", "v2")];
        assert!(shortfalls(fine).is_empty());
        assert!(shortfalls([("containerd", "2.1.9"), ("crun", "1.21"), ("runc", "odd")]).is_empty());
        let old = shortfalls([("containerd", "1.5.18"), ("kernel", "5.10.0-28-amd64")]);
        assert_eq!(old.len(), 2);
        assert!(old[0].starts_with("containerd 1.6 or later (it has 1.5.18"), "{old:?}");
    }
}
