//! Paths with wildcards, as POSIX defines them (XCU 2.13): `*`, `?` and bracket expressions, and a backslash
//! that takes the meaning from what follows it. Pure: it says whether a name matches, and never looks for one.
//!
//! Written here because the usual crates for globs mean something else: they know braces and `**`, let `*`
//! match a leading dot and know no character classes.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::path::{AbsolutePath, PathError};

/// An absolute path with at least one wildcard. It is matched name by name, so a slash is only ever matched
/// by a slash.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PathPattern {
    text: String,
    names: Vec<NamePattern>,
}

/// One component of a [`PathPattern`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NamePattern {
    /// Exactly this name.
    Literal(String),
    /// A name that has this form.
    Wild(Wild),
}

/// The form of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wild {
    tokens: Vec<Token>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Literal(char),
    /// `?`
    One,
    /// `*`
    Many,
    /// `[…]`
    Set {
        negated: bool,
        members: Vec<Member>,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Member {
    Range(char, char),
    /// `[:name:]` of a known name.
    Class(String),
}

/// Why a text is not a path with wildcards.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PatternError {
    /// It is no acceptable path.
    #[error(transparent)]
    Path(#[from] PathError),
    /// It has no wildcard.
    #[error("has no wildcard")]
    Plain,
    /// A backslash has nothing to act on.
    #[error("has a backslash at the end of a name")]
    Dangling,
    /// `[:name:]` with an unknown name.
    #[error("has the unknown character class '[:{0}:]'")]
    Class(String),
}

/// Whether a path has a wildcard that no backslash takes the meaning from.
pub fn has_wildcards(text: &str) -> bool {
    // What cannot be read as a pattern is not a plain path either.
    text.split('/').any(|name| !matches!(parse_name(name), Ok(NamePattern::Literal(_))))
        && text.contains(['*', '?', '['])
}

/// The path that a text without wildcards means: a backslash before a character that would be one goes away,
/// any other is part of a name.
pub fn without_escapes(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text.chars().peekable();
    while let Some(character) = rest.next() {
        let is_escape = character == '\\' && matches!(rest.peek(), Some('*' | '?' | '['));
        if !is_escape {
            plain.push(character);
        }
    }
    plain
}

impl PathPattern {
    /// Parses a path that has wildcards.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        let normal = AbsolutePath::parse(text)?;
        let names = normal.as_str().split('/').skip(1).map(parse_name).collect::<Result<Vec<_>, _>>()?;
        let climbs =
            |name: &NamePattern| matches!(name, NamePattern::Literal(name) if name == ".." || name == ".");
        if names.iter().any(climbs) {
            return Err(PathError::HasParent.into());
        }
        if !names.iter().any(|name| matches!(name, NamePattern::Wild(_))) {
            return Err(PatternError::Plain);
        }
        Ok(Self { text: normal.into(), names })
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The directory in which everything lies that can match: the names before the first wildcard.
    pub fn directory(&self) -> AbsolutePath {
        let literal = self.names.iter().map_while(|name| match name {
            NamePattern::Literal(name) => Some(name.as_str()),
            NamePattern::Wild(_) => None,
        });
        let path: String = literal.flat_map(|name| ["/", name]).collect();
        // Only the one that begins with a wildcard has nothing before it.
        AbsolutePath::parse(&path).unwrap_or_else(|_| AbsolutePath::root())
    }

    /// The names that are left below `prefix`; none where it is not a directory above the first wildcard.
    pub fn below(&self, prefix: &AbsolutePath) -> Option<&[NamePattern]> {
        self.directory().starts_with(prefix).then(|| &self.names[prefix.depth()..])
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.text, f)
    }
}

impl TryFrom<String> for PathPattern {
    type Error = PatternError;

    fn try_from(text: String) -> Result<Self, PatternError> {
        Self::parse(&text)
    }
}

impl From<PathPattern> for String {
    fn from(pattern: PathPattern) -> Self {
        pattern.text
    }
}

impl Wild {
    /// Whether `name` has this form. A dot at its start must be written.
    pub fn matches(&self, name: &str) -> bool {
        if name.starts_with('.') && self.tokens.first() != Some(&Token::Literal('.')) {
            return false;
        }
        let name: Vec<char> = name.chars().collect();
        let (mut at, mut token) = (0, 0);
        // Where the last `*` stands, and the first character that it does not cover yet. Only the last one
        // ever has to give way, so the time is bounded by the product of the lengths.
        let mut last_many = None;
        while at < name.len() {
            match self.tokens.get(token) {
                Some(Token::Many) => {
                    last_many = Some((token, at));
                    token += 1;
                }
                Some(one) if one.takes(name[at]) => (at, token) = (at + 1, token + 1),
                _ => {
                    let Some((many, covered)) = last_many else { return false };
                    last_many = Some((many, covered + 1));
                    (at, token) = (covered + 1, many + 1);
                }
            }
        }
        self.tokens[token..].iter().all(|token| *token == Token::Many)
    }
}

impl Token {
    fn takes(&self, character: char) -> bool {
        match self {
            Self::Literal(literal) => *literal == character,
            Self::One | Self::Many => true,
            Self::Set { negated, members } => {
                let is_member = members.iter().any(|member| match member {
                    Member::Range(first, last) => (*first..=*last).contains(&character),
                    Member::Class(name) => is_in_class(name, character) == Some(true),
                });
                is_member != *negated
            }
        }
    }
}

fn parse_name(name: &str) -> Result<NamePattern, PatternError> {
    let characters: Vec<char> = name.chars().collect();
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(character) = characters.get(at) {
        at += 1;
        tokens.push(match character {
            '*' => Token::Many,
            '?' => Token::One,
            '\\' => {
                let escaped = characters.get(at).ok_or(PatternError::Dangling)?;
                at += 1;
                Token::Literal(*escaped)
            }
            '[' => match parse_set(&characters[at..])? {
                Some((set, length)) => {
                    at += length;
                    set
                }
                // Without its end it is a character like any other.
                None => Token::Literal('['),
            },
            other => Token::Literal(*other),
        });
    }
    let literal: Option<String> = tokens
        .iter()
        .map(|token| match token {
            Token::Literal(character) => Some(*character),
            _ => None,
        })
        .collect();
    Ok(literal.map_or(NamePattern::Wild(Wild { tokens }), NamePattern::Literal))
}

/// The bracket expression that begins after `[`, and how many characters it takes; none where it has no end.
fn parse_set(rest: &[char]) -> Result<Option<(Token, usize)>, PatternError> {
    // `^` is what shells take beside the `!` of POSIX.
    let negated = matches!(rest.first(), Some('!' | '^'));
    let start = usize::from(negated);
    let mut members = Vec::new();
    let mut at = start;
    loop {
        match rest.get(at) {
            None => return Ok(None),
            // At the very start it is a member.
            Some(']') if at > start => return Ok(Some((Token::Set { negated, members }, at + 1))),
            Some('[') if rest.get(at + 1) == Some(&':') => {
                let Some(length) = rest[at + 2..].windows(2).position(|pair| pair == [':', ']']) else {
                    return Ok(None);
                };
                let name: String = rest[at + 2..at + 2 + length].iter().collect();
                if is_in_class(&name, 'a').is_none() {
                    return Err(PatternError::Class(name));
                }
                members.push(Member::Class(name));
                at += length + 4;
            }
            Some(_) => {
                let Some((first, after)) = element(rest, at)? else { return Ok(None) };
                let is_range =
                    rest.get(after) == Some(&'-') && rest.get(after + 1).is_some_and(|c| *c != ']');
                let (last, after) = if is_range {
                    let Some(last) = element(rest, after + 1)? else { return Ok(None) };
                    last
                } else {
                    (first, after)
                };
                members.push(Member::Range(first, last));
                at = after;
            }
        }
    }
}

/// One character of a bracket expression, also written as `\x`, `[.x.]` or `[=x=]`, and where the next begins;
/// none where the text ends before.
fn element(rest: &[char], at: usize) -> Result<Option<(char, usize)>, PatternError> {
    Ok(match rest[at..] {
        ['\\', escaped, ..] => Some((escaped, at + 2)),
        ['\\'] => return Err(PatternError::Dangling),
        ['[', open @ ('.' | '='), character, close, ']', ..] if open == close => Some((character, at + 5)),
        [character, ..] => Some((character, at + 1)),
        [] => None,
    })
}

/// Whether a character is in a class, in the POSIX locale; none where there is no such class.
fn is_in_class(name: &str, character: char) -> Option<bool> {
    Some(match name {
        "alnum" => character.is_ascii_alphanumeric(),
        "alpha" => character.is_ascii_alphabetic(),
        "blank" => matches!(character, ' ' | '\t'),
        "cntrl" => character.is_ascii_control(),
        "digit" => character.is_ascii_digit(),
        "graph" => character.is_ascii_graphic(),
        "lower" => character.is_ascii_lowercase(),
        "print" => matches!(character, ' '..='~'),
        "punct" => character.is_ascii_punctuation(),
        "space" => matches!(character, ' ' | '\t'..='\r'),
        "upper" => character.is_ascii_uppercase(),
        "xdigit" => character.is_ascii_hexdigit(),
        _ => return None,
    })
}

#[cfg(test)]
#[path = "path_pattern_tests.rs"]
mod tests;
