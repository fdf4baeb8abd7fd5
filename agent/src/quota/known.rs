//! Project ids that belong to somebody else by the machine's own files: projid(5) and projects(5). It only reads.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// The files in `/etc`, and which field of a line is the id.
const FILES: [(&str, usize); 2] = [("projid", 1), ("projects", 0)];

/// All ids that these files speak of. What cannot be read speaks of none.
pub(super) fn ids(etc: &Path) -> BTreeSet<u32> {
    let of = |(name, field): (&str, usize)| {
        let text = fs::read_to_string(etc.join(name)).unwrap_or_default();
        let id = |line: &str| line.split(':').nth(field)?.trim().parse().ok();
        text.lines().filter_map(id).collect::<Vec<u32>>()
    };
    FILES.into_iter().flat_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_both_files() {
        let etc = tempfile::tempdir().unwrap();
        assert!(ids(etc.path()).is_empty());
        fs::write(etc.path().join("projid"), "# names\nhomes:17\nbad\nvolume1048577:1048577\n").unwrap();
        fs::write(etc.path().join("projects"), "17:/home\n18:/srv:x\n").unwrap();
        assert_eq!(ids(etc.path()), BTreeSet::from([17, 18, 1_048_577]));
    }
}
