//! The script that Cromwell has run for each call, step by step as the real one does it: two pipes and two
//! `tee`s for the output, the user's command in a shell of its own, the exit code into a file that gets its
//! name only at the very end.

use sha2::{Digest, Sha256};

/// Names that a glob's directory and list get: `glob-` and 32 digits.
pub fn glob_name(pattern: &str) -> String {
    let digits: String = Sha256::digest(pattern).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("glob-{}", &digits[..32])
}

/// The script for `command`, to be run in the directory `at` of the container.
pub fn script(at: &str, command: &str, globs: &[String]) -> String {
    let globs: String = globs.iter().map(|pattern| collect(at, pattern)).collect();
    format!(
        r#"#!/bin/sh

cd {at}
tmpDir=$(mktemp -d "$PWD"/tmp.XXXXXX)
chmod 777 "$tmpDir"
export _JAVA_OPTIONS=-Djava.io.tmpdir="$tmpDir"
export TMPDIR="$tmpDir"
export HOME="$HOME"
out="$tmpDir/out.$$" err="$tmpDir/err.$$"
mkfifo "$out" "$err"
trap 'rm "$out" "$err"' EXIT
touch {at}/stdout {at}/stderr
tee {at}/stdout < "$out" &
tee {at}/stderr < "$err" >&2 &
(
cd {at}
{command}
) > "$out" 2> "$err"
echo $? > {at}/rc.tmp
(
# Object stores forget empty directories.
cd {at}
find . -type d -exec sh -c '[ -z "$(ls -A "$1")" ] && touch "$1/.file"' fill {{}} \;
)
(
cd {at}
true
{globs})
mv {at}/rc.tmp {at}/rc
"#
    )
}

/// Gathers what matches a pattern by hard links, and lists it.
fn collect(at: &str, pattern: &str) -> String {
    let name = glob_name(pattern);
    format!(
        "mkdir {at}/{name}\n\
         echo 'This directory belongs to the engine' > {at}/{name}/cromwell_glob_control_file\n\
         ( ln -L {pattern} {at}/{name} 2> /dev/null ) || ( ln {pattern} {at}/{name} )\n\
         ls -1 {at}/{name} | grep -v cromwell_glob_control_file > {at}/{name}.list\n"
    )
}
