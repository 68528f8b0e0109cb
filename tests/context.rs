//! The files of a build context: the same as those that `docker build` sends, for generated trees and ignore files.

use crate::harness::{Project, unique};
use indoc::formatdoc;
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};

/// Files that runner never sends.
const OWN: [&str; 3] = [".runner", "imagedefinitions.json", "imageDetail.json"];

/// A docker command that builds with BuildKit. Newer ones without buildx do not.
fn docker_with_buildkit() -> &'static str {
    static FOUND: OnceLock<&str> = OnceLock::new();
    FOUND.get_or_init(|| {
        let context = tempfile::tempdir().unwrap();
        fs::write(context.path().join("Dockerfile"), "FROM scratch\nCOPY Dockerfile /\n").unwrap();
        let works = |docker: &&str| {
            let output = docker_build(docker, context.path(), &["-o", "type=tar,dest=/dev/null"]);
            output.is_ok_and(|output| output.status.success())
        };
        let found = ["docker", "/usr/bin/docker"].into_iter().find(works);
        found.expect("no docker command can build with BuildKit: install Docker 20.10 or the buildx plugin")
    })
}

fn docker_build(docker: &str, context: &Path, arguments: &[&str]) -> std::io::Result<Output> {
    let mut command = Command::new(docker);
    command.env("DOCKER_BUILDKIT", "1").arg("build").args(arguments).arg(".").current_dir(context).output()
}

/// What `docker build` makes of a context: the result's files below `directory`, or what went wrong.
fn by_docker(context: &Path, arguments: &[&str], directory: &str) -> Result<BTreeSet<String>, String> {
    let out = tempfile::tempdir().unwrap();
    let target = out.path().display().to_string();
    let arguments = [arguments, &["-q", "-o", &target]].concat();
    let output = docker_build(docker_with_buildkit(), context, &arguments).unwrap();
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    let mut found = BTreeSet::new();
    if out.path().join(directory).is_dir() {
        list(&out.path().join(directory), "", &mut found);
    }
    Ok(found)
}

/// Everything below a directory that is none, with the targets of links.
fn list(directory: &Path, prefix: &str, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if OWN.contains(&name.as_str()) {
            continue;
        }
        if entry.file_type().unwrap().is_dir() {
            list(&entry.path(), &format!("{prefix}{name}/"), found);
        } else {
            found.insert(format!("{prefix}{name}"));
        }
    }
}

/// What `runner image context` lists, or what went wrong.
fn by_runner(project: &Project, arguments: &str) -> Result<BTreeSet<String>, String> {
    let outcome = project.runner(&format!("image context --engine context{arguments}")).run();
    if outcome.code != Some(0) {
        return Err(outcome.stderr);
    }
    let unescape = |line: &str| line.replace("\\n", "\n").replace("\\\\", "\\");
    let lines = outcome.stdout.lines();
    // A backslash in a name stands before an `n` in no name that is made here.
    Ok(lines.map(|line| if line.contains('\\') { unescape(line) } else { line.to_owned() }).collect())
}

/// The same numbers for the same seed, on every machine: splitmix64.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % u64::try_from(bound).unwrap()).unwrap()
    }

    fn one_in(&mut self, chances: usize) -> bool {
        self.below(chances) == 0
    }

    fn pick<'a, T: ?Sized>(&mut self, of: &[&'a T]) -> &'a T {
        of[self.below(of.len())]
    }
}

const NAMES: &[&str] = &[
    "a",
    "b",
    "c",
    "foo",
    "bar",
    "src",
    "lib",
    "foo.go",
    "bar.go",
    "a.txt",
    "x.tar.gz",
    "node_modules",
    "target",
    "README.md",
    ".git",
    ".env",
    ".a",
    "..a",
    "...",
    "a b",
    " lead",
    "trail ",
    "[x]",
    "a[b",
    "b]",
    "b\\c",
    "\\",
    "übung",
    "日本",
    "e\u{301}",
    "\u{a0}x",
    "!a",
    "!",
    "#c",
    "*",
    "a*",
    "**",
    "?",
    "-",
    "^",
    "^a",
    "(x)",
    "a+b",
    "aab",
    "{y}",
    "y",
    "a{2}",
    "$d",
    "a|b",
    "~",
    "A",
    "tab\there",
    "a,b",
    "a:b",
    "'q'",
    "\"q\"",
    "%41",
    "a&b",
    "7",
    "w",
    "x",
    "sub",
    "Dockerfile.old",
    ".dockerignore.bak",
];

/// Makes a tree and gives its paths.
fn tree(random: &mut Random, root: &Path) -> Vec<String> {
    let mut directories = vec![String::new()];
    let mut paths: Vec<String> = Vec::new();
    for _ in 0..5 + random.below(30) {
        let directory = directories[random.below(directories.len())].clone();
        let path = format!("{directory}{}", random.pick(NAMES));
        let full = root.join(&path);
        if full.symlink_metadata().is_ok() {
            continue;
        }
        match random.below(10) {
            0..4 if directory.matches('/').count() < 4 => {
                fs::create_dir(&full).unwrap();
                directories.push(format!("{path}/"));
            }
            4 => {
                let target = match paths.get(random.below(paths.len() + 1)) {
                    Some(path) => format!("{}{path}", random.pick(&["", "../", "/"])),
                    None => random.pick(&["nowhere", ".", "..", "/", "a", "../../.."]).to_owned(),
                };
                symlink(target, &full).unwrap();
            }
            _ => fs::write(&full, &path).unwrap(),
        }
        paths.push(path);
    }
    paths
}

/// A pattern that has to do with one of the paths, more often than not.
fn pattern(random: &mut Random, paths: &[String]) -> String {
    let path = paths.get(random.below(paths.len().max(1))).map_or("a", String::as_str);
    let mut components: Vec<String> = path.split('/').map(ToOwned::to_owned).collect();
    match random.below(6) {
        0 => components = vec![components.pop().unwrap()],
        1 => components.truncate(1 + random.below(components.len())),
        2 => components.push((*random.pick(NAMES)).to_owned()),
        _ => {}
    }
    for component in &mut components {
        if random.one_in(4) {
            *component = mutated(random, component);
        }
    }
    if random.one_in(8) {
        components.insert(random.below(components.len() + 1), "**".to_owned());
    }
    if random.one_in(20) {
        components
            .insert(random.below(components.len() + 1), random.pick(&[".", "..", "", "a/.."]).to_owned());
    }
    let mut pattern = components.join("/");
    if random.one_in(10) {
        pattern.insert_str(0, random.pick(&["/", "./", "//", "../", "/../", "**", "*"]));
    }
    if random.one_in(10) {
        pattern.push_str(random.pick(&["/", "//", "/.", "/**", "/*", "**", " ", "\t", "/.."]));
    }
    pattern
}

/// A component with a wildcard, a class or an escape in it.
fn mutated(random: &mut Random, component: &str) -> String {
    let characters: Vec<char> = component.chars().collect();
    let at = random.below(characters.len());
    let [before, after] =
        [&characters[..at], &characters[at + 1..]].map(|part| part.iter().collect::<String>());
    let here = characters[at];
    match random.below(14) {
        0 | 1 => "*".to_owned(),
        2 => "**".to_owned(),
        3 => format!("{before}*"),
        4 => format!("*{here}{after}"),
        5 => format!("{before}?{after}"),
        6 => format!("{before}[{here}]{after}"),
        7 => format!("{before}[^{here}]{after}"),
        8 => format!("{before}[!a-z]{after}"),
        9 => format!("{before}[a-z0-9_.]{after}"),
        10 => format!("{before}\\{here}{after}"),
        11 => format!("**{after}"),
        12 => format!("{before}**{after}"),
        _ => format!(
            "{before}{}{after}",
            random.pick(&["[[:alpha:]]", "[a-", "[]", "[z-a]", "[\\d]", "\\w", "[[]", "[*?]", "+"])
        ),
    }
}

fn ignore_file(random: &mut Random, paths: &[String]) -> String {
    let mut text = String::new();
    if random.one_in(20) {
        text.push('\u{feff}');
    }
    let end = if random.one_in(6) { "\r\n" } else { "\n" };
    if random.one_in(4) {
        text.push_str(random.pick(&["*", "**", "*/*", "**/*", "src"]));
        text.push_str(end);
    }
    for _ in 0..=random.below(7) {
        match random.below(30) {
            0 => text.push_str("# a comment"),
            1 => {}
            2 => text.push_str("  "),
            3 => text.push_str(random.pick(&[
                "#", " #c", "!#c", "\\#c", "!", "!!a", "/", ".", "..", "!/", "!.", "! a", "\\", "/!a",
            ])),
            _ => {
                if random.one_in(20) {
                    text.push(' ');
                }
                if random.one_in(3) {
                    text.push('!');
                }
                text.push_str(&pattern(random, paths));
            }
        }
        text.push_str(end);
    }
    if random.one_in(5) {
        text.truncate(text.trim_end_matches(['\r', '\n']).len());
    }
    text
}

fn empty_directory(path: &Path) {
    let _ = fs::remove_dir_all(path);
    fs::create_dir(path).unwrap();
}

/// Runs `case` for every seed, four side by side, and panics with what they say.
fn for_seeds(first: u64, count: u64, case: impl Fn(&Project, u64) -> Result<(), String> + Sync) {
    let next = AtomicU64::new(first);
    let problems = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let project = Project::new("");
                loop {
                    let seed = next.fetch_add(1, Ordering::SeqCst);
                    if seed >= first + count {
                        return;
                    }
                    if let Err(problem) = case(&project, seed) {
                        problems.lock().unwrap().push(format!("seed {seed}: {problem}"));
                    }
                }
            });
        }
    });
    let problems = problems.into_inner().unwrap();
    assert!(problems.is_empty(), "{} of {count} differ\n{}", problems.len(), problems.join("\n"));
}

fn soaking() -> bool {
    std::env::var("RUNNER_SOAK").is_ok_and(|value| value == "full")
}

fn same(
    docker: Result<BTreeSet<String>, String>,
    runner: Result<BTreeSet<String>, String>,
    ignore: &str,
) -> Result<(), String> {
    match (docker, runner) {
        (Ok(docker), Ok(runner)) if docker == runner => Ok(()),
        (Err(_), Err(_)) => Ok(()),
        // Buildx cannot send some names, which runner can.
        (Err(docker), Ok(_)) if docker.contains("contains value with non-printable ASCII characters") => {
            Ok(())
        }
        // Docker reads a malformed pattern only if it comes to it. Runner refuses it, because it ends some engines.
        (Ok(_), Err(runner)) if runner.contains("is not a valid ignore pattern") => Ok(()),
        (Ok(docker), Ok(runner)) => {
            let only = |one: &BTreeSet<String>, other| one.difference(other).cloned().collect::<Vec<_>>();
            Err(format!(
                "{ignore:?}\n  only docker: {:?}\n  only runner: {:?}",
                only(&docker, &runner),
                only(&runner, &docker)
            ))
        }
        (docker, runner) => Err(format!("{ignore:?}\n  docker: {docker:?}\n  runner: {runner:?}")),
    }
}

#[test]
fn generated_contexts_are_those_of_docker_build() {
    let (first, count) = if soaking() { (10_000, 3000) } else { (0, 500) };
    for_seeds(first, count, |project, seed| {
        let random = &mut Random(seed);
        let context = project.path("context");
        empty_directory(&context);
        let paths = tree(random, &context);
        let ignore = ignore_file(random, &paths);
        let own = random.one_in(10);
        let dockerfile = if own { "web.Dockerfile" } else { "Dockerfile" };
        fs::write(context.join(dockerfile), "FROM scratch\nCOPY . /\n").unwrap();
        fs::write(context.join(".dockerignore"), if own { "*\n" } else { ignore.as_str() }).unwrap();
        if own {
            fs::write(context.join("web.Dockerfile.dockerignore"), &ignore).unwrap();
        }
        let docker = by_docker(&context, &["-f", dockerfile], "");
        let listed = if own { " -f context/web.Dockerfile" } else { "" };
        same(docker, by_runner(project, listed), &ignore)
    });
}

/// The sources of a `COPY`: everything, or some paths with wildcards in them.
fn sources(random: &mut Random, paths: &[String]) -> Vec<String> {
    if random.one_in(3) || paths.is_empty() {
        return vec![".".to_owned()];
    }
    let source = |random: &mut Random| {
        let path = &paths[random.below(paths.len())];
        let components = path.split('/').map(|component| {
            let escaped = component.chars().flat_map(|character| {
                let special = "*?[\\".contains(character);
                special.then_some('\\').into_iter().chain([character])
            });
            match random.below(6) {
                0 => "*".to_owned(),
                1 => format!(
                    "{}*",
                    component
                        .chars()
                        .next()
                        .filter(char::is_ascii_alphanumeric)
                        .map_or(String::new(), String::from)
                ),
                _ => escaped.collect(),
            }
        });
        components.collect::<Vec<_>>().join("/")
    };
    (0..=random.below(3)).map(|_| source(random)).collect()
}

#[test]
fn built_images_hold_the_files_that_docker_build_puts_there() {
    let (first, count) = if soaking() { (20_000, 200) } else { (60_010, 20) };
    for_seeds(first, count, |_, seed| {
        let random = &mut Random(seed);
        let repository = unique("context");
        let project = Project::new(&formatdoc! {r"
            version: 1
            name: t
            images: {{ app: {{ repository: {repository}, tags: [t], context: context }} }}
            phases: {{ build: {{ steps: [{{ build: app }}] }} }}
        "});
        let context = project.path("context");
        empty_directory(&context);
        let paths = tree(random, &context);
        let ignore = ignore_file(random, &paths);
        let mut copied = sources(random, &paths);
        copied.push("/c/".to_owned());
        let copy = serde_json::to_string(&copied).unwrap();
        let project = project
            .file("context/Dockerfile", format!("FROM scratch\nCOPY {copy}\n"))
            .file("context/.dockerignore", &ignore);
        let docker = by_docker(&context, &[], "c");
        let outcome = project.runner("run").run();
        let runner = if outcome.code == Some(0) {
            let image = tempfile::tempdir().unwrap();
            let from = format!("FROM local.invalid/{repository}:t\n");
            fs::write(image.path().join("Dockerfile"), from).unwrap();
            by_docker(image.path(), &[], "c")
        } else {
            Err(outcome.to_string())
        };
        same(docker, runner, &format!("{ignore}\nCOPY {copy}"))
    });
}

/// A project whose image has a build context of its own.
fn project_with_context() -> Project {
    let repository = unique("context");
    let project = Project::new(&formatdoc! {r"
        version: 1
        name: t
        images: {{ app: {{ repository: {repository}, tags: [t], context: context, dockerfile: outside/Dockerfile }} }}
        phases: {{ build: {{ steps: [{{ build: app }}] }} }}
    "});
    fs::create_dir(project.path("context")).unwrap();
    project
}

/// The lines of a build's log that describe files.
fn described(log: &str) -> Vec<String> {
    let lines = log.lines().filter_map(|line| line.split_once("FILE:").map(|(_, rest)| rest.to_owned()));
    let mut lines: Vec<String> = lines.filter(|line| line.starts_with("./")).collect();
    lines.sort();
    lines
}

/// Findings, H9: also of a named pipe.
#[test]
fn files_of_every_kind_arrive_as_with_docker_build() {
    let project = project_with_context();
    let context = project.path("context");
    fs::create_dir_all(context.join("closed/empty")).unwrap();
    fs::write(context.join("closed/in"), "x").unwrap();
    // BuildKit takes the same files of another time out of its cache.
    fs::write(context.join("own"), unique("kinds")).unwrap();
    fs::write(context.join("first"), "linked").unwrap();
    fs::hard_link(context.join("first"), context.join("second")).unwrap();
    fs::hard_link(context.join("first"), context.join("closed/third")).unwrap();
    fs::File::create(context.join("sparse")).unwrap().set_len(5_000_000).unwrap();
    fs::write(context.join("special"), "x").unwrap();
    for (path, mode) in [("special", 0o6751), ("closed/empty", 0o1777), ("closed", 0)] {
        fs::set_permissions(context.join(path), fs::Permissions::from_mode(mode)).unwrap();
    }
    for (target, link) in [("loop2", "loop1"), ("loop1", "loop2"), (".", "self"), ("/etc/passwd", "absolute")]
    {
        symlink(target, context.join(link)).unwrap();
    }
    // The name of a socket may not be long.
    let bound = tempfile::tempdir().unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(bound.path().join("s")).unwrap();
    fs::rename(bound.path().join("s"), context.join("socket")).unwrap();
    assert!(Command::new("mkfifo").arg(context.join("pipe")).status().unwrap().success());
    let dockerfile = format!(
        "FROM busybox:1.36\nENV OF={}\nCOPY . /c\nRUN cd /c && find . -exec stat -c 'FILE:%n %F %a %s %h %u' {{}} + && find . -type f -exec stat -c 'FILE:%n %Y' {{}} + && find . -type l -exec sh -c 'echo FILE:$0 $(readlink $0)' {{}} \\;\n",
        unique("kinds")
    );
    let project = project.file("outside/Dockerfile", dockerfile);
    let outcome = project.runner("run").run().exits(0);
    let arguments =
        ["--no-cache", "--progress=plain", "-o", "type=tar,dest=/dev/null", "-f", "../outside/Dockerfile"];
    let docker = docker_build(docker_with_buildkit(), &context, &arguments).unwrap();
    let docker = String::from_utf8(docker.stderr).unwrap();
    let (ours, theirs) = (described(&outcome.stdout), described(&docker));
    assert!(theirs.len() > 15, "{docker}");
    assert_eq!(ours, theirs);
    fs::set_permissions(context.join("closed"), fs::Permissions::from_mode(0o700)).unwrap();
}

#[test]
fn an_invalid_pattern_is_named_with_its_file_and_line() {
    let says = "the pattern cannot be used: `sub/[z-a]` is not a valid ignore pattern";
    let project = project_with_context()
        .file("outside/Dockerfile", "FROM scratch\nCOPY . /\n")
        .file("context/.dockerignore", "# first\nfine\n\n  /sub//[z-a]/\n")
        .file("context/a", "");
    let listed = project.runner("image context context").run().exits(3);
    listed.complains(&format!("context/.dockerignore:4: {says}"));
    let built = project.runner("run").run();
    assert_ne!(built.code, Some(0), "{built}");
    built.ends_with(".dockerignore:4: the pattern cannot be used").ends_with("`sub/[z-a]`");
    let project = project.file("outside/Dockerfile.dockerignore", "!\n");
    let built = project.runner("run").run();
    built.ends_with("outside/Dockerfile.dockerignore:1: the pattern cannot be used");
}

#[test]
fn names_that_are_not_utf8_are_refused_unless_they_are_ignored() {
    use std::os::unix::ffi::OsStrExt;
    let project =
        project_with_context().file("outside/Dockerfile", "FROM scratch\nCOPY . /\n").file("context/a", "");
    let name = std::ffi::OsStr::from_bytes(b"caf\xe9.txt");
    fs::write(project.path("context").join(name), "").unwrap();
    let refused = project.runner("image context context").run().exits(3);
    refused.complains("in the build context is not UTF-8; add it to .dockerignore");
    project.runner("run").run().ends_with("in the build context is not UTF-8; add it to .dockerignore");
    let project = project.file("context/.dockerignore", "caf*\n");
    project.runner("image context context").run().exits(0);
    project.runner("run").run().exits(0);
}

#[test]
fn many_files_and_large_ones_take_little_memory() {
    let project = project_with_context().file("outside/Dockerfile", "FROM scratch\nCOPY . /\n");
    let context = project.path("context");
    for directory in 0..100 {
        let directory = context.join(directory.to_string());
        fs::create_dir(&directory).unwrap();
        for file in 0..100 {
            fs::write(directory.join(file.to_string()), format!("{file}\n").repeat(file)).unwrap();
        }
    }
    fs::File::create(context.join("large")).unwrap().set_len(200_000_000).unwrap();
    let (outcome, peak) = project.runner("run").start().finish_measured();
    outcome.exits(0);
    assert!(peak < 100_000_000, "{peak} bytes");
}

#[test]
fn an_ignore_file_may_be_large() {
    let ignore: String = (0..5000).map(|number| format!("a/directory/of/a/project/{number}\n")).collect();
    let project = project_with_context()
        .file("outside/Dockerfile", "FROM scratch\nCOPY . /\n")
        .file("context/.dockerignore", ignore)
        .file("context/a/directory/of/a/project/4999", "")
        .file("context/a/directory/of/a/project/5000", "");
    project.runner("run").run().exits(0);
}
