//! `cluster.json`: the cluster that this node belongs to and the highest term that it has seen. An old copy
//! of the coordinator's database, or somebody else's coordinator, is recognised by it and not obeyed.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    cluster_id: String,
    term: u64,
}

/// What is remembered.
pub(super) struct Memory {
    path: PathBuf,
    kept: Option<Kept>,
}

impl Memory {
    pub(super) fn new(data_dir: &Path) -> Self {
        Self { path: data_dir.join("cluster.json"), kept: None }
    }

    /// The cluster id and the highest term; empty and 0 before the first welcome.
    pub(super) fn recall(&mut self) -> Result<(String, u64), String> {
        let path = self.path.display();
        let kept = match fs::read(&self.path) {
            Ok(text) => serde_json::from_slice(&text).map_err(|error| {
                format!("{path} is damaged ({error}); if this node belongs to this cluster, remove the file")
            })?,
            // An operator may remove it to let the node change its cluster.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Kept::default(),
            Err(error) => return Err(format!("failed to read {path}: {error}")),
        };
        // What could not be written to the disk holds as long as this process does.
        let unwritten = self.kept.take().filter(|known| known.cluster_id == kept.cluster_id);
        let kept = unwritten.filter(|known| known.term > kept.term).unwrap_or(kept);
        self.kept = Some(kept.clone());
        Ok((kept.cluster_id, kept.term))
    }

    /// Checks who welcomes us against what is remembered, and remembers it.
    pub(super) fn meet(&mut self, cluster_id: &str, term: u64) -> Result<(), String> {
        let known = self.kept.clone().unwrap_or_default();
        if cluster_id.is_empty() {
            return Err("the coordinator does not say which cluster it is".to_owned());
        }
        if !known.cluster_id.is_empty() && known.cluster_id != cluster_id {
            return Err(format!(
                "this node belongs to cluster {}, the coordinator to {cluster_id}; if that is meant, remove \
                 {} once the node's tasks have ended",
                known.cluster_id,
                self.path.display()
            ));
        }
        if term < known.term {
            return Err(format!(
                "this node has seen term {}, the coordinator is in term {term}: its database is an old copy",
                known.term
            ));
        }
        let new = Kept { cluster_id: cluster_id.to_owned(), term };
        if new != known {
            if let Err(error) = write(&self.path, &new) {
                tracing::error!(path = %self.path.display(), %error, "failed to remember the cluster");
            }
            self.kept = Some(new);
        }
        Ok(())
    }
}

fn write(path: &Path, kept: &Kept) -> io::Result<()> {
    let temporary = path.with_extension("json.new");
    let mut file = fs::File::create(&temporary)?;
    file.write_all(&serde_json::to_vec(kept)?)?;
    file.sync_all()?;
    fs::rename(&temporary, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn obeys_its_own_cluster_and_no_lower_term() {
        let data = tempfile::tempdir().unwrap();
        let mut memory = Memory::new(data.path());
        assert_eq!(memory.recall().unwrap(), (String::new(), 0));
        memory.meet("a", 3).unwrap();
        let mut restarted = Memory::new(data.path());
        assert_eq!(restarted.recall().unwrap(), ("a".to_owned(), 3));
        assert!(restarted.meet("b", 9).unwrap_err().contains("cluster a"));
        assert!(restarted.meet("a", 2).unwrap_err().contains("term 3"));
        assert!(restarted.meet("", 9).is_err());
        restarted.meet("a", 3).unwrap();
        restarted.meet("a", 4).unwrap();
        assert_eq!(memory.recall().unwrap(), ("a".to_owned(), 4));
    }

    #[test]
    fn a_term_that_could_not_be_written_still_counts() {
        let data = tempfile::tempdir().unwrap();
        let mut memory = Memory::new(data.path());
        memory.recall().unwrap();
        memory.meet("a", 1).unwrap();
        fs::create_dir(data.path().join("cluster.json.new")).unwrap();
        memory.meet("a", 5).unwrap();
        assert_eq!(memory.recall().unwrap(), ("a".to_owned(), 5));
    }

    #[test]
    fn an_operator_may_let_it_change_its_cluster() {
        let data = tempfile::tempdir().unwrap();
        let mut memory = Memory::new(data.path());
        memory.meet("a", 3).unwrap();
        fs::remove_file(data.path().join("cluster.json")).unwrap();
        memory.recall().unwrap();
        memory.meet("b", 1).unwrap();
        fs::write(data.path().join("cluster.json"), "{").unwrap();
        assert!(memory.recall().unwrap_err().contains("damaged"));
    }
}
