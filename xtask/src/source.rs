//! What a single file must look like: a header, a bounded length, bounded functions, plain words.
//!
//! Functions are found by layout, which `cargo fmt` makes certain: a function ends at the first
//! line that is a closing brace at the indentation of its `fn`. No parser is needed for that.

use std::path::Path;

use crate::Complaint;

/// Production lines of a file, above the tests. Longer files are rarely one idea.
const FILE_LINES_MAX: usize = 600;

/// Lines of a function, signature and closing brace included: what fits on one screen.
const FUNCTION_LINES_MAX: usize = 70;

/// Lines of a test module inside a production file; larger ones live in a sibling `tests.rs`.
const INLINE_TEST_LINES_MAX: usize = 150;

/// Tables that are long because what they list is long. By name, so that each is a decision.
const FLAT_TABLES: &[&str] = &[];

/// Ends of file names that are made, not written, and so have no place in the repository.
const GENERATED: &[&str] = &["o", "so", "a", "pyc", "whl", "img", "snapshot", "journal", "log"];

/// Checks one Rust file; `path` is only for the complaint.
pub(crate) fn check(path: &str, text: &str) -> Vec<Complaint> {
    let lines: Vec<&str> = text.lines().collect();
    let mut complaints = Vec::new();
    let mut complain = |line: usize, mend: String| {
        complaints.push(Complaint { place: format!("{path}:{line}"), mend });
    };
    if !lines.first().is_some_and(|line| line.starts_with("//! ")) {
        complain(1, "open the file with a `//!` line that says what it is".to_owned());
    }
    let is_test = is_test_path(path);
    let tests_at = lines.iter().position(|line| line.trim() == "#[cfg(test)]");
    let production = if is_test { 0 } else { tests_at.unwrap_or(lines.len()) };
    if FILE_LINES_MAX < production && !FLAT_TABLES.contains(&path) {
        complain(1, format!("{production} lines, at most {FILE_LINES_MAX}: split it by idea"));
    }
    if let Some(at) = tests_at
        && !is_test
        && INLINE_TEST_LINES_MAX < lines.len() - at
    {
        let count = lines.len() - at;
        complain(at + 1, format!("{count} lines of tests inline: move them to a `tests.rs`"));
    }
    for (start, length) in long_functions(&lines) {
        if FLAT_TABLES.contains(&path) {
            continue;
        }
        let mend = format!("function of {length} lines, at most {FUNCTION_LINES_MAX}: split it");
        complain(start + 1, mend);
    }
    for (index, line) in lines.iter().enumerate() {
        if let Some(word) = unfinished_word(line) {
            complain(index + 1, format!("`{word}`: finish it, or say in an issue what is missing"));
        }
    }
    complaints
}

/// Checks that a tracked file is of a kind that belongs in the repository.
pub(crate) fn check_kind(path: &Path) -> Option<Complaint> {
    let extension = path.extension()?.to_str()?;
    GENERATED.contains(&extension).then(|| Complaint {
        place: path.display().to_string(),
        mend: "generated: remove it and add it to .gitignore".to_owned(),
    })
}

/// Tests, benches and examples may be as long as their cases.
fn is_test_path(path: &str) -> bool {
    path.contains("/tests/") || path.contains("/examples/") || path.ends_with("/tests.rs")
}

/// First line (from 0) and length of each function longer than allowed.
fn long_functions(lines: &[&str]) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let body = line.trim_start();
        if !is_function_start(body) || body.ends_with(';') {
            continue;
        }
        let indent = line.len() - body.len();
        let closing = format!("{}}}", " ".repeat(indent));
        let end = lines[start..].iter().position(|line| *line == closing);
        // A signature without a body (in a trait) meets the brace of what encloses it, less indented.
        if let Some(length) = end.map(|end| end + 1)
            && FUNCTION_LINES_MAX < length
            && !lines[start..start + length].iter().any(|line| signature_only(line, indent))
        {
            found.push((start, length));
        }
    }
    found
}

/// True for the last line of a declaration without a body, at this indentation.
fn signature_only(line: &str, indent: usize) -> bool {
    line.len() > indent
        && line.starts_with(&" ".repeat(indent))
        && line[indent..].starts_with(')')
        && line.ends_with(';')
}

fn is_function_start(body: &str) -> bool {
    let mut rest = body;
    for word in ["pub ", "pub(crate) ", "pub(super) ", "const ", "async ", "unsafe "] {
        rest = rest.strip_prefix(word).unwrap_or(rest);
    }
    rest.starts_with("fn ")
}

/// A word that says a line is not finished.
fn unfinished_word(line: &str) -> Option<&'static str> {
    // Written in pieces so that this file does not complain about itself.
    let words = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("to", "do!("),
        concat!("unimple", "mented!("),
        concat!("#[ig", "nore]"),
    ];
    words.into_iter().find(|word| line.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mends(text: &str) -> Vec<String> {
        check("crates/x/src/y.rs", text).into_iter().map(|complaint| complaint.mend).collect()
    }

    #[test]
    fn a_file_without_a_header_is_named() {
        assert!(mends("fn f() {}\n")[0].contains("//!"));
        assert!(mends("//! What it is.\nfn f() {}\n").is_empty());
    }

    #[test]
    fn a_long_function_is_named_and_a_short_one_is_not() {
        let body = "    let x = 1;\n";
        let long = format!("//! H.\nfn f() {{\n{}}}\n", body.repeat(FUNCTION_LINES_MAX - 1));
        assert!(mends(&long)[0].contains("split it"), "{:?}", mends(&long));
        let short = format!("//! H.\nfn f() {{\n{}}}\n", body.repeat(FUNCTION_LINES_MAX - 2));
        assert!(mends(&short).is_empty());
    }

    #[test]
    fn a_long_file_is_named_but_not_for_its_tests() {
        let long = format!("//! H.\n{}", "const A: u8 = 1;\n".repeat(FILE_LINES_MAX));
        assert!(mends(&long)[0].contains("split it by idea"));
        let tests = "const A: u8 = 1;\n".repeat(FILE_LINES_MAX);
        let with_tests = format!("//! H.\n#[cfg(test)]\nmod tests {{\n{tests}}}\n");
        assert!(mends(&with_tests)[0].contains("tests.rs"));
    }

    #[test]
    fn unfinished_words_are_named() {
        assert_eq!(mends(concat!("//! H.\n// TO", "DO later\n")).len(), 1);
    }
}
