//! Tests of `outputs.rs` that need neither root nor a view.

use std::os::unix::fs::symlink;

use teamster_values::AbsolutePath;

use super::*;

fn output(from: &Path, to: &Path) -> OutputWork {
    let path = |path: &Path| AbsolutePath::parse(path.to_str().unwrap()).unwrap();
    OutputWork {
        field: "outputs[0]".into(),
        from: path(from),
        to: path(to),
        url: format!("file://{}", to.display()),
    }
}

fn put(wanted: &[OutputWork]) -> Result<StagedOut, StageError> {
    put_in_place(wanted, &mut Copier::new("t"))
}

#[test]
fn copies_what_is_there_and_warns_of_the_rest() {
    let root = tempfile::tempdir().unwrap();
    let (from, to) = (root.path().join("from"), root.path().join("to/deep"));
    std::fs::create_dir_all(from.join("sub/empty")).unwrap();
    std::fs::write(from.join("sub/a b"), "12345").unwrap();
    symlink("sub/a b", from.join("link")).unwrap();
    symlink("sub", from.join("dirlink")).unwrap();
    symlink("/nonexistent", from.join("dangling")).unwrap();
    symlink("loop", from.join("loop")).unwrap();
    nix::unistd::mkfifo(&from.join("fifo"), nix::sys::stat::Mode::S_IRUSR).unwrap();
    let missing = output(&root.path().join("none"), &root.path().join("to/none"));
    let done = put(&[output(&from, &to), missing]).unwrap();
    let mut urls: Vec<_> = done.files.iter().map(|file| (file.url.as_str(), file.size_bytes)).collect();
    urls.sort_unstable();
    let prefix = format!("file://{}", to.display());
    assert_eq!(urls, [(&*format!("{prefix}/link"), 5), (&*format!("{prefix}/sub/a%20b"), 5)]);
    assert!(to.join("sub/empty").is_dir() && to.join("link").symlink_metadata().unwrap().is_file());
    let warnings = done.warnings.join("\n");
    for text in
        ["fifo was left out: it is a FIFO", "dirlink was left out", "dangling", "loop", "none was not"]
    {
        assert!(warnings.contains(text), "{text} in {warnings}");
    }
    assert_eq!(done.warnings.len(), 5);
}

#[test]
fn what_is_in_place_is_only_listed() {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("dir/file");
    std::fs::create_dir(root.path().join("dir")).unwrap();
    std::fs::write(&file, "123").unwrap();
    let before = std::fs::metadata(&file).unwrap();
    let both = [output(&file, &file), output(&root.path().join("dir"), &root.path().join("dir"))];
    let done = put(&both).unwrap();
    assert_eq!(done.files.len(), 1, "declared twice, listed once");
    assert!(is_same(&before, &std::fs::metadata(&file).unwrap()));
    // A link back to where the output belongs is no reason to touch it either.
    symlink(&file, root.path().join("link")).unwrap();
    assert_eq!(put(&[output(&root.path().join("link"), &file)]).unwrap().files[0].size_bytes, 3);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "123");
}

#[test]
fn one_failure_does_not_keep_the_others_back() {
    let root = tempfile::tempdir().unwrap();
    let (from, to) = (root.path().join("from"), root.path().join("to"));
    std::fs::write(&from, "x").unwrap();
    std::fs::create_dir_all(root.path().join("full/of")).unwrap();
    let error = put(&[output(&from, &root.path().join("full")), output(&from, &to)]).unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, StageError::Task(_)) && text.contains("outputs[0]"), "{text}");
    assert_eq!(std::fs::read_to_string(to).unwrap(), "x");
}

#[test]
fn too_deep_is_refused_and_too_many_warnings_are_counted() {
    let root = tempfile::tempdir().unwrap();
    let mut deep = root.path().join("deep");
    for _ in 0..DEPTH_MAX + 2 {
        deep.push("d");
    }
    std::fs::create_dir_all(&deep).unwrap();
    let error = put(&[output(&root.path().join("deep"), &root.path().join("to"))]).unwrap_err();
    assert!(error.to_string().contains("directories deep"), "{error}");
    let missing: Vec<_> = (0..WARNINGS_MAX + 7)
        .map(|n| output(&root.path().join(format!("none{n}")), &root.path().join("x")))
        .collect();
    let done = put(&missing).unwrap();
    assert_eq!(done.warnings.len(), WARNINGS_MAX + 1);
    assert!(done.warnings.last().unwrap().contains("7 more"));
}

#[test]
fn urls_keep_their_form() {
    assert_eq!(url_below("/mnt/a", "b c"), "/mnt/a/b c");
    assert_eq!(url_below("file:///mnt/a", "b c%"), "file:///mnt/a/b%20c%25");
}
