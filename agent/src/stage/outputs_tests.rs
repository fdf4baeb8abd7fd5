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
        pattern: None,
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

#[test]
fn what_matches_is_put_below_the_url_with_the_prefix_taken_off() {
    let root = tempfile::tempdir().unwrap();
    let work = root.path().join("work");
    for (path, text) in
        [("a/x.bam", "1"), ("a/y.txt", "2"), ("b b/x.bam", "3"), (".c/x.bam", "4"), ("d.bam/in", "5")]
    {
        let path = work.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    symlink("a", work.join("e.bam")).unwrap();
    let to = root.path().join("to/deep");
    let matching = |pattern: &str, to: &Path| {
        let pattern = format!("{}/{pattern}", work.display());
        OutputWork { pattern: Some(PathPattern::parse(&pattern).unwrap()), ..output(&work, to) }
    };
    let done = put(&[matching("*/*.bam", &to), matching("*.bam", &to), matching("*.none", &to)]).unwrap();
    let placed: Vec<_> = done.files.iter().map(|file| (file.path.as_str(), file.url.as_str())).collect();
    let (from, url) = (work.display(), format!("file://{}", to.display()));
    let expected = [
        (format!("{from}/a/x.bam"), format!("{url}/a/x.bam")),
        (format!("{from}/b b/x.bam"), format!("{url}/b%20b/x.bam")),
        (format!("{from}/e.bam/x.bam"), format!("{url}/e.bam/x.bam")),
        (format!("{from}/d.bam/in"), format!("{url}/d.bam/in")),
    ];
    let expected: Vec<_> = expected.iter().map(|(path, url)| (path.as_str(), url.as_str())).collect();
    assert_eq!(placed[..2], expected[..2]);
    assert!(placed.contains(&expected[3]), "a directory that matches is taken whole: {placed:?}");
    assert_eq!(std::fs::read_to_string(to.join("b b/x.bam")).unwrap(), "3");
    assert!(!to.join("a/y.txt").exists() && !to.join(".c").exists());
    assert_eq!(done.warnings.len(), 2, "{:?}", done.warnings);
    assert!(done.warnings[0].contains("e.bam was left out: it is a symbolic link to a directory"));
    assert_eq!(done.warnings[1], format!("nothing matches output {from}/*.none"));

    // In a bound directory nothing is copied, and everything is listed all the same.
    let before = std::fs::metadata(work.join("a/x.bam")).unwrap();
    let done = put(&[matching("*/*.bam", &work), matching("d.*", &work)]).unwrap();
    assert_eq!(done.files.len(), 4, "{:?}", done.files);
    assert!(is_same(&before, &std::fs::metadata(work.join("a/x.bam")).unwrap()) && done.warnings.is_empty());
}
