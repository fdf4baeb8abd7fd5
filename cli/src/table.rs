//! Writes to the user: tables, JSON, ages and amounts that a person can read. It asks nothing of anybody.

use std::io::{ErrorKind, Write};

use jiff::Timestamp;
use serde::Serialize;

/// How many characters of a task id a table shows at least. They are its time of creation and a little
/// more, and [`Client::resolve`](crate::client::Client::resolve) takes them as well.
const SHORT_ID: usize = 14;

/// The beginnings of task ids that tables show: equally long, and long enough to tell these apart.
pub(crate) fn short_ids<'a>(ids: &[&'a str]) -> Vec<&'a str> {
    let cut =
        |length: usize| -> Vec<&'a str> { ids.iter().map(|id| id.get(..length).unwrap_or(id)).collect() };
    let longest = ids.iter().map(|id| id.len()).max().unwrap_or(0);
    let tells_apart = |length: &usize| {
        let mut beginnings = cut(*length);
        beginnings.sort_unstable();
        beginnings.windows(2).all(|pair| pair[0] != pair[1])
    };
    cut((SHORT_ID..longest).find(tells_apart).unwrap_or(longest))
}

/// Writes columns under their headings, each as wide as its widest cell.
pub(crate) fn print<const N: usize>(headings: [&str; N], rows: &[[String; N]]) {
    write(&lay_out(headings, rows));
}

/// Writes one line.
pub(crate) fn say(line: &str) {
    write(&format!("{line}\n"));
}

/// Writes a value as indented JSON.
pub(crate) fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    say(&serde_json::to_string_pretty(value)?);
    Ok(())
}

/// Writes text exactly as it is.
pub(crate) fn write(text: &str) {
    write_bytes(text.as_bytes());
}

/// Writes bytes exactly as they are.
pub(crate) fn write_bytes(bytes: &[u8]) {
    let mut out = std::io::stdout().lock();
    let written = out.write_all(bytes).and_then(|()| out.flush());
    if written.is_err_and(|error| error.kind() == ErrorKind::BrokenPipe) {
        // Whoever read this (`head`, a pager) has seen enough, and nothing can be told to anybody any more.
        std::process::exit(0);
    }
}

/// Writes text to standard error exactly as it is.
pub(crate) fn write_error(text: &str) {
    write_error_bytes(text.as_bytes());
}

/// Writes bytes to standard error exactly as they are.
pub(crate) fn write_error_bytes(bytes: &[u8]) {
    // There is no better place to complain about a standard error that is gone.
    let _ = std::io::stderr().lock().write_all(bytes);
}

fn lay_out<const N: usize>(headings: [&str; N], rows: &[[String; N]]) -> String {
    let mut widths = headings.map(|heading| heading.chars().count());
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(printable(cell).chars().count());
        }
    }
    let mut text = String::new();
    let head = headings.map(str::to_owned);
    for row in std::iter::once(&head).chain(rows) {
        let mut line = String::new();
        for (width, cell) in widths.iter().zip(row) {
            line.push_str(&format!("{:width$}  ", printable(cell)));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Names come from other users; what would move the cursor of a terminal is shown as a dot.
fn printable(cell: &str) -> String {
    cell.chars().map(|c| if c.is_control() { '·' } else { c }).collect()
}

/// How long ago `then` was, in the one or two largest units: `42s`, `3m10s`, `5h02m`, `9d`.
pub(crate) fn age(then: Timestamp, now: Timestamp) -> String {
    duration(now.duration_since(then).as_secs())
}

/// A length of time in the same form.
pub(crate) fn duration(seconds: i64) -> String {
    match seconds.max(0) {
        s @ 0..60 => format!("{s}s"),
        s @ 60..3600 => format!("{}m{:02}s", s / 60, s % 60),
        s @ 3600..172_800 => format!("{}h{:02}m", s / 3600, s % 3600 / 60),
        s => format!("{}d", s / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = [["a".into(), "long cell".into()], ["bbbb".into(), String::new()]];
        assert_eq!(lay_out(["ID", "NAME"], &rows), "ID    NAME\na     long cell\nbbbb\n");
    }

    #[test]
    fn a_name_cannot_drive_the_terminal() {
        let rows = [["\u{1b}[2Jx\r\n".to_owned()]];
        assert_eq!(lay_out(["N"], &rows), "N\n·[2Jx··\n");
    }

    #[test]
    fn ages_are_short() {
        let texts = [0, 59, 60, 190, 18_120, 180_000].map(duration);
        assert_eq!(texts, ["0s", "59s", "1m00s", "3m10s", "5h02m", "2d"]);
    }

    #[test]
    fn short_ids_tell_tasks_apart() {
        assert_eq!(short_ids(&["abc"]), ["abc"]);
        assert_eq!(short_ids(&["abcdefghijklmnopqrstuvwxyz"]), ["abcdefghijklmn"]);
        let close = ["abcdefghijklmnopqrstuvwxyz", "abcdefghijklmnopqr2tuvwxyz"];
        assert_eq!(short_ids(&close), ["abcdefghijklmnopqrs", "abcdefghijklmnopqr2"]);
        assert_eq!(short_ids(&["same", "same"]), ["same", "same"], "nothing tells these apart");
    }
}
