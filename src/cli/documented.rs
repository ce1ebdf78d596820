//! Commands that the documentation shows are commands that there are.

use super::Cli;
use clap::Parser as _;
use clap::error::ErrorKind;
use std::fs;
use std::path::{Path, PathBuf};

/// A command as a page shows it.
struct Shown {
    page: PathBuf,
    /// Words behind the program's name.
    words: Vec<String>,
    /// Whether it is to be typed as it stands, and not only named in a sentence.
    whole: bool,
}

/// README, and all pages in `docs/`.
fn pages() -> Vec<PathBuf> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let docs = fs::read_dir(top.join("docs")).expect("the folder").map(|entry| entry.expect("an entry").path());
    docs.filter(|path| path.extension().is_some_and(|kind| kind == "md")).chain([top.join("README.md")]).collect()
}

/// The words of a line of a shell, up to what is not this command's; quotes keep words together.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for c in line.chars() {
        match (quote, c) {
            (None, ' ') => words.extend(word.take()),
            (None, '|' | '>' | '&' | ';' | ')' | '…') => break,
            (None, '#') if word.is_none() => break,
            (None, '"' | '\'') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (Some(open), _) if open == c => quote = None,
            // What may be left out is shown in brackets.
            (None, '[' | ']') => {}
            _ => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

/// What stands behind the program's name, where a line or a piece of code runs it.
fn command(code: &str) -> Option<&str> {
    let starts = [
        "clickline ",
        "cargo run --release -- ",
        "docker run --rm clickline ",
        "docker compose exec job clickline ",
        "docker compose run --rm job ",
    ];
    let found = starts.into_iter().find_map(|start| {
        let at = code.find(start)?;
        let before = &code[..at];
        // A path to it, variables that are set for it or to what it says, or nothing; `-p clickline -p …` is cargo's.
        let set = (before.is_empty() || before.ends_with(' ')) && before.split(' ').all(|word| word.is_empty() || sets(word));
        let free = set || before.ends_with('/') || before.ends_with("$(");
        free.then(|| &code[at + start.len()..])
    })?;
    found.starts_with(|c: char| c.is_ascii_lowercase() || c == '-').then_some(found)
}

/// Whether a word of a shell sets a variable for the command behind it.
fn sets(word: &str) -> bool {
    let name = word.split_once('=').map_or("", |(name, _)| name);
    !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

fn shown() -> Vec<Shown> {
    let mut found = Vec::new();
    // The first lines of this file are typed, too.
    let compose = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/compose/compose.yaml");
    let text = fs::read_to_string(&compose).expect("a file");
    for line in text.lines().filter_map(|line| line.strip_prefix("#   ")) {
        found.extend(command(line).map(|of| Shown { page: compose.clone(), words: words(of), whole: true }));
    }
    assert!(found.len() >= 3, "compose.yaml shows {} commands", found.len());
    for page in pages() {
        let text = fs::read_to_string(&page).expect("a page").replace("\\\n", " ");
        let mut fenced = None::<String>;
        for line in text.lines() {
            if let Some(kind) = line.trim_start().strip_prefix("```") {
                fenced = fenced.is_none().then(|| kind.to_owned());
                continue;
            }
            let mut push = |code: &str, whole| {
                let code = code.trim();
                found.extend(command(code).map(|of| Shown { page: page.clone(), words: words(of), whole }));
            };
            match fenced.as_deref() {
                Some("sh" | "console") => push(line, true),
                Some(_) => {}
                None => line.split('`').skip(1).step_by(2).for_each(|code| push(code, false)),
            }
        }
    }
    found
}

#[test]
fn a_command_is_found_behind_the_variables_that_are_set_for_it() {
    assert_eq!(command("A=b C_2=d clickline run"), Some("run"));
    assert_eq!(command("export KEY=\"$(clickline hubspot key)\""), Some("hubspot key)\""));
    assert_eq!(command("docker compose exec job clickline doctor"), Some("doctor"));
    assert_eq!(command("cargo build -p clickline -p clickline-redirect"), None);
    assert_eq!(command("cargo test -p clickline run"), None);
    assert_eq!(command("IMAGE=clickline run"), None);
}

#[test]
fn every_command_that_is_shown_is_taken() {
    let shown = shown();
    assert!(shown.len() > 60, "{} commands are shown", shown.len());
    for Shown { page, words, whole } in shown {
        let typed = words.join(" ");
        let parsed = Cli::try_parse_from(std::iter::once("clickline".to_owned()).chain(words));
        let Err(error) = parsed else { continue };
        let named = matches!(
            error.kind(),
            ErrorKind::MissingRequiredArgument
                | ErrorKind::MissingSubcommand
                | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
                | ErrorKind::InvalidValue
                | ErrorKind::DisplayHelp
                | ErrorKind::DisplayVersion
        );
        // `--reason CODE` shows what is to be filled in.
        let placeholder = typed.split(' ').any(|word| word.len() > 1 && word.chars().all(|c| c.is_ascii_uppercase()));
        let filled_in = placeholder && matches!(error.kind(), ErrorKind::ValueValidation | ErrorKind::InvalidValue);
        assert!(!whole && named || filled_in, "{}: clickline {typed}\n{error}", page.display());
    }
}

/// `cargo build` alone makes the root package's program, and not those of the others.
#[test]
fn programs_that_are_run_are_built_before() {
    let mut run = 0;
    for page in pages() {
        let text = fs::read_to_string(&page).expect("a page");
        for program in ["clickline-redirect", "clickline-sandbox"] {
            for kind in ["release", "debug"] {
                let Some(at) = text.find(&format!("target/{kind}/{program}")) else { continue };
                run += 1;
                let builds = |line: &str| {
                    let all = line.contains("--workspace") || line.contains(&format!("-p {program}"));
                    line.starts_with("cargo build") && line.contains("--release") == (kind == "release") && all
                };
                assert!(text[..at].lines().any(builds), "{}: nothing builds target/{kind}/{program}", page.display());
            }
        }
    }
    assert!(run >= 2);
}
