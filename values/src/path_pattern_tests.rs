//! Tests of `path_pattern.rs`.

use super::*;

fn matches(pattern: &str, name: &str) -> bool {
    match parse_name(pattern).unwrap() {
        NamePattern::Literal(literal) => literal == name,
        NamePattern::Wild(wild) => wild.matches(name),
    }
}

#[test]
fn names_match_as_posix_says() {
    for (pattern, yes, no) in [
        ("*", vec!["a", "a b", "ab.c", "é", "]["], vec![".a", ".", "..", ".*"]),
        ("*.bam", vec!["x.bam", "x.bam.bam", "a.b.bam"], vec![".bam", "x.bam.bai", "bam"]),
        ("a*b*c", vec!["abc", "aXbYc", "abcbc", "aabbcc"], vec!["ab", "acb", "xabc"]),
        ("?", vec!["a", "é", "*"], vec!["", "ab", "."]),
        ("a?c", vec!["abc", "a.c"], vec!["ac", "abbc"]),
        (".*", vec![".a", ".", ".bam"], vec!["a"]),
        (".?", vec![".a"], vec!["ab", "."]),
        ("[.]a", vec![], vec![".a"]),
        ("[!a]b", vec!["cb", "]b"], vec!["ab", ".b", "b"]),
        ("[^a]b", vec!["cb"], vec!["ab"]),
        ("[a-c]1", vec!["a1", "b1", "c1"], vec!["d1", "-1"]),
        ("[a-]1", vec!["a1", "-1"], vec!["b1"]),
        ("[]a]", vec!["]", "a"], vec!["b", "[]a]"]),
        ("[!]a]", vec!["b"], vec!["]", "a"]),
        ("[z-a]", vec![], vec!["a", "m", "z", "-"]),
        ("x[[:digit:]_]", vec!["x7", "x_"], vec!["xa", "x:", "x["]),
        ("[[:upper:]]*", vec!["Ab"], vec!["ab"]),
        ("[[.-.]a]", vec!["-", "a"], vec!["."]),
        ("[[=e=]]", vec!["e"], vec!["=", "é"]),
        (r"[\]a]", vec!["]", "a"], vec![r"\"]),
        (r"\*", vec!["*"], vec!["a", r"\*"]),
        (r"a\[1\]*", vec!["a[1]", "a[1].txt"], vec!["a1"]),
        (r"\\?", vec![r"\a"], vec!["a", r"\"]),
        ("a[1", vec!["a[1"], vec!["a1"]),
        ("{a,b}", vec!["{a,b}"], vec!["a", "b"]),
        ("**", vec!["a", "ab"], vec![".a"]),
    ] {
        for name in yes {
            assert!(matches(pattern, name), "{pattern} matches {name}");
        }
        for name in no {
            assert!(!matches(pattern, name), "{pattern} does not match {name}");
        }
    }
}

#[test]
fn many_stars_take_no_long_time() {
    let pattern = "*a".repeat(200) + "b";
    assert!(!matches(&pattern, &"a".repeat(4_000)));
}

#[test]
fn tells_wildcards_from_plain_paths() {
    for wild in ["/a/*", "/a?/b", "/[ab]", r"/a\*/*", "/a[[:none:]]", r"/*\"] {
        assert!(has_wildcards(wild), "{wild}");
    }
    for plain in ["/a/b", r"/a\*", "/a[1", "/a]b", r"/a\b\", r"/\[a]", "/[a/b]"] {
        assert!(!has_wildcards(plain), "{plain}");
    }
    assert_eq!(without_escapes(r"/a\*\?\[1]\b"), r"/a*?[1]\b");
}

#[test]
fn patterns_know_where_their_wildcards_begin() {
    let pattern = PathPattern::parse("//work/./a\\[1\\]/x*/y").unwrap();
    assert_eq!(pattern.directory().as_str(), "/work/a[1]");
    let path = |text: &str| AbsolutePath::parse(text).unwrap();
    let below = pattern.below(&path("/work/")).unwrap();
    assert_eq!(below.len(), 3);
    assert_eq!(
        (&below[0], &below[2]),
        (&NamePattern::Literal("a[1]".into()), &NamePattern::Literal("y".into()))
    );
    assert_eq!(pattern.below(&path("/")).unwrap().len(), 4);
    for other in ["/wor", "/work/b", "/work/a[1]/xx", "/work/a[1]/x*/y"] {
        assert!(pattern.below(&path(other)).is_none(), "{other}");
    }
    assert_eq!(PathPattern::parse("/*").unwrap().directory(), AbsolutePath::root());
    let written = String::from(pattern.clone());
    assert_eq!(PathPattern::try_from(written).unwrap(), pattern);
}

#[test]
fn refuses_what_is_no_pattern() {
    let error = |text: &str| PathPattern::parse(text).unwrap_err();
    assert_eq!(error("a/*"), PathError::NotAbsolute.into());
    assert_eq!(error("/a/../*"), PathError::HasParent.into());
    assert_eq!(error(r"/a/\.\./*"), PathError::HasParent.into());
    assert_eq!(error("/a/b"), PatternError::Plain);
    assert_eq!(error(r"/*/a\"), PatternError::Dangling);
    assert_eq!(error("/[[:none:]]"), PatternError::Class("none".into()));
}
