//! A Rust file split into code and comments by a small lexer, and the functions and test modules found
//! in it by matching braces. No macro is expanded and nothing is resolved; that is enough here.

use std::ops::Range;

/// One Rust file.
pub(crate) struct Source<'a> {
    pub(crate) path: &'a str,
    /// The lines with comments and the contents of literals blanked.
    pub(crate) code: Vec<String>,
    /// The lines with all but comments blanked.
    pub(crate) comments: Vec<String>,
    /// Per line: inside `#[cfg(test)] mod … { … }`, or anywhere in a test file.
    tests: Vec<bool>,
}

/// A function with a body.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Function {
    pub(crate) name: String,
    /// From the line of `fn` to the line of the closing brace, from 0.
    pub(crate) lines: Range<usize>,
}

impl<'a> Source<'a> {
    pub(crate) fn new(path: &'a str, text: &str) -> Self {
        let (code, comments) = split(text);
        let lines = |text: String| text.lines().map(str::to_owned).collect::<Vec<_>>();
        let mut source = Self {
            path,
            code: lines(code),
            comments: lines(comments),
            tests: Vec::new(),
        };
        source.tests = vec![is_test_file(path); source.code.len()];
        for module in source.test_modules() {
            source.tests[module].fill(true);
        }
        source
    }

    pub(crate) fn is_test(&self, line: usize) -> bool {
        self.tests.get(line).copied().unwrap_or_default()
    }

    /// Lines without tests.
    pub(crate) fn length(&self) -> usize {
        (0..self.code.len())
            .filter(|line| !self.is_test(*line))
            .count()
    }

    pub(crate) fn functions(&self) -> Vec<Function> {
        let tokens = self.tokens();
        let mut found = Vec::new();
        for (at, pair) in tokens.windows(2).enumerate() {
            let [(line, "fn"), (_, name)] = pair else {
                continue;
            };
            if !name.starts_with(|c: char| c.is_alphabetic() || c == '_') {
                continue;
            }
            if let Some(end) = body_end(&tokens[at + 2..]) {
                found.push(Function {
                    name: (*name).to_owned(),
                    lines: *line..end + 1,
                });
            }
        }
        found
    }

    fn test_modules(&self) -> Vec<Range<usize>> {
        const ATTRIBUTE: [&str; 7] = ["#", "[", "cfg", "(", "test", ")", "]"];
        let tokens = self.tokens();
        let mut found = Vec::new();
        for (at, window) in tokens.windows(ATTRIBUTE.len()).enumerate() {
            if !window.iter().map(|(_, token)| *token).eq(ATTRIBUTE) {
                continue;
            }
            let item = skip_attributes(&tokens[at + ATTRIBUTE.len()..]);
            if let Some((_, "mod")) = item.first()
                && let Some(end) = body_end(&item[1..])
            {
                found.push(window[0].0..end + 1);
            }
        }
        found
    }

    /// Words and single signs of the code, each with its line.
    fn tokens(&self) -> Vec<(usize, &str)> {
        let word = |c: char| c.is_alphanumeric() || c == '_';
        let mut found = Vec::new();
        for (number, line) in self.code.iter().enumerate() {
            let mut rest = line.trim_start();
            while let Some(first) = rest.chars().next() {
                let size = match word(first) {
                    true => rest.find(|c| !word(c)).unwrap_or(rest.len()),
                    false => first.len_utf8(),
                };
                let (token, tail) = rest.split_at(size);
                found.push((number, token));
                rest = tail.trim_start();
            }
        }
        found
    }
}

/// `tests.rs`, and everything in a folder called `tests`, `benches` or `fuzz`.
fn is_test_file(path: &str) -> bool {
    path.split('/')
        .any(|part| ["tests.rs", "tests", "benches", "fuzz"].contains(&part))
}

fn skip_attributes<'t, 's>(mut tokens: &'t [(usize, &'s str)]) -> &'t [(usize, &'s str)] {
    while let [(_, "#"), (_, "["), ..] = tokens {
        let mut depth = 0;
        let close = tokens.iter().position(|(_, token)| {
            depth += i32::from(*token == "[") - i32::from(*token == "]");
            depth == 0 && *token == "]"
        });
        tokens = close.map_or(&[], |at| &tokens[at + 1..]);
    }
    tokens
}

/// The line of the brace that closes the first body; `None` for an item that ends with a semicolon.
fn body_end(tokens: &[(usize, &str)]) -> Option<usize> {
    let mut round = 0;
    let mut curly = 0;
    for (line, token) in tokens {
        match *token {
            "(" | "[" if curly == 0 => round += 1,
            ")" | "]" if curly == 0 => round -= 1,
            ";" if curly == 0 && round == 0 => return None,
            // A brace inside the signature's brackets is an array length.
            "{" if round == 0 => curly += 1,
            "}" if round == 0 => {
                curly -= 1;
                if curly == 0 {
                    return Some(*line);
                }
            }
            _ => {}
        }
    }
    None
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Code,
    Comment,
    Literal,
}

/// The text twice: code alone and comments alone, everything else blanked, line breaks kept.
fn split(text: &str) -> (String, String) {
    let chars: Vec<char> = text.chars().collect();
    let mut code = String::with_capacity(text.len());
    let mut comments = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let (kind, end) = piece(&chars, at);
        assert!(end > at, "every piece has a length");
        for &c in &chars[at..end] {
            let blank = if c == '\n' { '\n' } else { ' ' };
            code.push(if kind == Kind::Code { c } else { blank });
            comments.push(if kind == Kind::Comment { c } else { blank });
        }
        at = end;
    }
    (code, comments)
}

/// What starts at `at`, and where it ends.
fn piece(chars: &[char], at: usize) -> (Kind, usize) {
    let next = |ahead: usize| chars.get(at + ahead).copied();
    match (chars[at], next(1)) {
        ('/', Some('/')) => (Kind::Comment, find(chars, at, |c| c == '\n')),
        ('/', Some('*')) => (Kind::Comment, block_comment_end(chars, at)),
        ('"', _) => (Kind::Literal, quoted_end(chars, at + 1, '"')),
        ('\'', Some('\\')) => (Kind::Literal, quoted_end(chars, at + 1, '\'')),
        ('\'', Some(_)) if next(2) == Some('\'') => (Kind::Literal, at + 3),
        (c, _) if is_word(c) => word(chars, at),
        _ => (Kind::Code, at + 1),
    }
}

/// A word, or the literal that it is the prefix of (`r"…"`, `br#"…"#`).
fn word(chars: &[char], at: usize) -> (Kind, usize) {
    let end = find(chars, at, |c| !is_word(c));
    let prefix: String = chars[at..end].iter().collect();
    if !["r", "br", "cr"].contains(&prefix.as_str()) {
        return (Kind::Code, end);
    }
    let hashes = chars[end..].iter().take_while(|c| **c == '#').count();
    if chars.get(end + hashes) != Some(&'"') {
        return (Kind::Code, end);
    }
    let mut close = end + hashes + 1;
    while close < chars.len() {
        let after = &chars[close + 1..];
        let closes = chars[close] == '"' && after.iter().take(hashes).all(|c| *c == '#');
        if closes && after.len() >= hashes {
            return (Kind::Literal, close + 1 + hashes);
        }
        close += 1;
    }
    (Kind::Literal, chars.len())
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The first place from `at` where `stop` holds, or the end.
fn find(chars: &[char], at: usize, stop: impl Fn(char) -> bool) -> usize {
    chars[at..]
        .iter()
        .position(|c| stop(*c))
        .map_or(chars.len(), |ahead| at + ahead)
}

fn quoted_end(chars: &[char], mut at: usize, quote: char) -> usize {
    while at < chars.len() {
        match chars[at] {
            '\\' => at += 2,
            c if c == quote => return at + 1,
            _ => at += 1,
        }
    }
    chars.len()
}

/// Block comments nest.
fn block_comment_end(chars: &[char], mut at: usize) -> usize {
    let mut depth = 0;
    while at + 1 < chars.len() {
        match (chars[at], chars[at + 1]) {
            ('/', '*') => depth += 1,
            ('*', '/') => depth -= 1,
            _ => {
                at += 1;
                continue;
            }
        }
        at += 2;
        if depth == 0 {
            return at;
        }
    }
    chars.len()
}
