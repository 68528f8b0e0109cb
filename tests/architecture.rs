//! The directions between modules (docs/architecture.md), read from the `use` lines and paths of the sources.

use std::collections::BTreeSet;
use std::path::Path;

/// The modules that each module may use.
const MAY_USE: &[(&str, &[&str])] = &[
    ("address", &[]),
    ("aws", &["address", "document", "ecs", "proxy", "secret", "text", "tls"]),
    ("backoff", &["random"]),
    (
        "cli",
        &[
            "address",
            "aws",
            "connections",
            "deployment",
            "docker",
            "docker_config",
            "document",
            "duration",
            "ecs",
            "engine",
            "event",
            "exit",
            "files",
            "language",
            "limits",
            "origin",
            "plan",
            "process",
            "proxy",
            "registry",
            "report",
            "run",
            "secret",
            "step",
            "style",
            "text",
            "work",
        ],
    ),
    (
        "connections",
        &[
            "address",
            "aws",
            "docker",
            "docker_config",
            "ecs",
            "event",
            "exit",
            "files",
            "limits",
            "plan",
            "process",
            "registry",
            "secret",
            "tls",
            "work",
        ],
    ),
    (
        "deployment",
        &[
            "address",
            "aws",
            "backoff",
            "connections",
            "docker",
            "document",
            "duration",
            "ecs",
            "event",
            "exit",
            "files",
            "language",
            "limits",
            "plan",
            "random",
            "registry",
            "secret",
            "text",
        ],
    ),
    ("docker", &["docker_config", "exit", "files", "limits", "random", "secret", "text", "tls"]),
    ("docker_config", &["secret"]),
    ("document", &[]),
    ("duration", &[]),
    ("ecs", &["address", "text"]),
    (
        "engine",
        &["backoff", "docker", "duration", "event", "exit", "files", "limits", "process", "secret", "work"],
    ),
    ("event", &["exit", "secret"]),
    ("exit", &[]),
    ("files", &["random"]),
    ("http", &["proxy", "tls"]),
    ("language", &["address", "document", "duration", "secret", "text"]),
    ("limits", &[]),
    ("origin", &["address", "exit", "language", "limits", "plan"]),
    ("plan", &["address", "duration", "language", "secret", "text"]),
    ("process", &["limits"]),
    ("proxy", &[]),
    ("random", &[]),
    (
        "registry",
        &[
            "address",
            "backoff",
            "docker_config",
            "exit",
            "files",
            "http",
            "limits",
            "random",
            "secret",
            "text",
            "tls",
        ],
    ),
    ("report", &["duration", "event", "exit", "files", "http", "limits", "secret", "style", "text"]),
    (
        "run",
        &[
            "address",
            "aws",
            "backoff",
            "connections",
            "duration",
            "engine",
            "event",
            "exit",
            "files",
            "language",
            "plan",
            "process",
            "report",
            "secret",
            "step",
            "text",
            "work",
        ],
    ),
    ("secret", &[]),
    (
        "step",
        &[
            "address",
            "aws",
            "backoff",
            "connections",
            "deployment",
            "docker",
            "duration",
            "ecs",
            "event",
            "exit",
            "files",
            "language",
            "limits",
            "plan",
            "process",
            "random",
            "registry",
            "secret",
            "text",
            "work",
        ],
    ),
    ("style", &[]),
    ("text", &[]),
    ("tls", &[]),
    ("work", &["exit", "files", "limits", "process"]),
];

/// Names that pure modules must not use.
const IMPURE: &[&str] =
    &["std::fs", "std::env", "std::net", "std::process", "tokio", "async fn", "reqwest", "duct::"];
const PURE: &[&str] = &["address", "document", "duration", "ecs", "language", "plan", "text"];

/// The keys of steps, which the engine must not know.
const STEP_KINDS: &[&str] =
    &["image-definitions", "task-definition", "run-task", "Action", "\"push\"", "\"deploy\"", "\"test\""];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The code of a module without comments and unit tests: path and text of each file.
fn sources(module: &str) -> Vec<(String, String)> {
    let root = root().join("src");
    let mut todo = vec![root.join(module), root.join(format!("{module}.rs"))];
    let mut found = Vec::new();
    while let Some(path) = todo.pop() {
        if path.is_dir() {
            todo.extend(std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.is_file() {
            let text = std::fs::read_to_string(&path).unwrap();
            // Unit tests may use everything. Some are in a separate file.
            let tests = path.file_name().is_some_and(|name| name == "tests.rs");
            let text = if tests { "" } else { text.split("#[cfg(test)]\nmod tests {").next().unwrap() };
            let code: Vec<&str> = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
            found.push((path.display().to_string(), code.join("\n")));
        }
    }
    found
}

/// Whether a text contains a phrase that is not part of a longer word.
fn has_phrase(text: &str, phrase: &str) -> bool {
    let is_word = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    text.match_indices(phrase).any(|(at, _)| {
        let (first, last) = (phrase.chars().next(), phrase.chars().next_back());
        let (before, after) = (text[..at].chars().next_back(), text[at + phrase.len()..].chars().next());
        !(is_word(first) && is_word(before) || is_word(last) && is_word(after))
    })
}

/// The modules of this crate that a text names.
fn used(text: &str) -> BTreeSet<String> {
    let mut modules = BTreeSet::new();
    for (at, _) in text.match_indices("crate::") {
        let rest = &text[at + "crate::".len()..];
        let names = match rest.strip_prefix('{') {
            Some(group) => group.split('}').next().unwrap().split(',').collect(),
            None => vec![rest],
        };
        for name in names {
            let name: String =
                name.trim().chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect();
            modules.insert(name);
        }
    }
    modules
}

#[test]
fn data_flows_one_way() {
    for (module, allowed) in MAY_USE {
        let sources = sources(module);
        assert!(!sources.is_empty(), "there is no module {module}");
        for (path, text) in sources {
            for name in used(&text) {
                assert!(
                    name == *module || allowed.contains(&name.as_str()),
                    "{path} must not use crate::{name}"
                );
            }
        }
    }
}

#[test]
fn every_module_has_its_directions() {
    let lib = std::fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let modules: Vec<&str> =
        lib.lines().filter_map(|line| line.strip_prefix("mod ")?.strip_suffix(';')).collect();
    assert!(modules.len() > 20, "{modules:?}");
    for module in modules {
        assert!(MAY_USE.iter().any(|(name, _)| *name == module), "{module} is missing in MAY_USE");
    }
}

#[test]
fn only_main_is_public() {
    for module in MAY_USE.iter().map(|(name, _)| *name) {
        for (path, text) in sources(module) {
            let public = text.lines().find(|line| {
                let line = line.trim_start();
                line.starts_with("pub ") && !line.starts_with("pub fn main() -> ExitCode")
            });
            assert_eq!(public, None, "{path}");
        }
    }
}

#[test]
fn pure_modules_touch_nothing() {
    for module in PURE {
        for (path, text) in sources(module) {
            for word in IMPURE {
                assert!(!has_phrase(&text, word), "{path} must not use {word}");
            }
        }
    }
}

/// One place sets up what a process has once.
#[test]
fn only_the_session_sets_up_the_process() {
    for module in MAY_USE.iter().map(|(name, _)| *name) {
        for (path, text) in sources(module).iter().filter(|(path, _)| !path.ends_with("src/cli/session.rs")) {
            for name in ["tokio::runtime::Runtime", "set_hook", "signal::unix"] {
                assert!(!has_phrase(text, name), "{path} must not use {name}");
            }
        }
    }
}

#[test]
fn the_engine_knows_no_step_kind() {
    for (path, text) in sources("engine") {
        for word in STEP_KINDS {
            assert!(!text.contains(word), "{path} must not name {word}");
        }
    }
}

/// Text reaches the reports masked (`secret::Shown`): a report that has no masks cannot forget one.
#[test]
fn reports_have_no_masks() {
    for (path, text) in sources("report") {
        for word in ["Masks", "Masker", ".mask", "shown("] {
            assert!(!text.contains(word), "{path} must not use {word}");
        }
    }
}

#[test]
fn main_is_short() {
    let main = std::fs::read_to_string(root().join("src/main.rs")).unwrap();
    assert!(main.lines().count() < 30);
}

/// Phrases of a private dialect; style rules the rest by review.
#[test]
fn the_language_is_plain() {
    const PHRASES: &[&str] = &[
        "nothing where",
        "cannot be told",
        "be told",
        "somebody",
        "nobody",
        "way back",
        "is through",
        "anew",
        "come again",
    ];
    let mut todo: Vec<_> = [
        "src",
        "docs",
        "README.md",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "dev",
        ".ci",
        ".cargo",
        ".config",
    ]
    .map(|name| root().join(name))
    .into();
    while let Some(path) = todo.pop() {
        if path.is_dir() {
            todo.extend(std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
            continue;
        }
        let Ok(text) = std::fs::read_to_string(&path) else { continue };
        for (line, number) in text.lines().zip(1..) {
            // The Unix user of that name is data.
            let line = line.to_lowercase().replace("nobody:x:", "");
            for phrase in PHRASES {
                assert!(!has_phrase(&line, phrase), "{}:{number} says `{phrase}`", path.display());
            }
        }
    }
}

/// The crates and modules that `.cargo/layout.ld` places in a section of their own, each with the length of its name
/// before it.
#[test]
fn the_layout_lists_the_existing_modules() {
    let root = root();
    let layout = std::fs::read_to_string(root.join(".cargo/layout.ld")).unwrap();
    let lock = std::fs::read_to_string(root.join("Cargo.lock")).unwrap();
    let names = lock.lines().filter_map(|line| line.strip_prefix("name = \"")?.strip_suffix('"'));
    let crates: Vec<String> = names.map(|name| name.replace('-', "_")).collect();
    let modules: Vec<String> = std::fs::read_dir(root.join("src"))
        .unwrap()
        .flat_map(|entry| sources(entry.unwrap().path().file_stem().unwrap().to_str().unwrap()))
        .map(|(path, _)| path.replace("/mod.rs", "").replace(".rs", ""))
        .collect();
    let patterns = layout.split(".text.*").skip(1).filter_map(|rest| rest.split('*').next());
    // All of a library in C has no names.
    let patterns: Vec<&str> = patterns.filter(|pattern| !pattern.starts_with(')')).collect();
    assert!(patterns.len() > 50, "{patterns:?}");
    for pattern in patterns {
        let mut rest = pattern.trim_start_matches("[0-9]");
        let mut path = Vec::new();
        while rest.starts_with(|first: char| first.is_ascii_digit()) {
            let digits = rest.find(|c: char| !c.is_ascii_digit()).expect(pattern);
            let (name, after) = rest[digits..].split_at(rest[..digits].parse().unwrap());
            path.push(name);
            rest = after;
        }
        let known = match path[..] {
            [] => crates.iter().any(|name| name.contains(rest)),
            // The package of `webpki` is called `rustls-webpki`.
            [name] => {
                rest.is_empty() && crates.iter().any(|known| known.trim_start_matches("rustls_") == name)
            }
            ["codebuild_runner", ref path @ ..] | ref path => {
                let end = format!("/{}", path.join("/"));
                rest.is_empty() && modules.iter().any(|module| module.ends_with(&end))
            }
        };
        assert!(known, "{pattern} is neither a crate nor a module");
    }
}
