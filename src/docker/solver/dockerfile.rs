//! The Dockerfile of a build, with a leading stage for every name of another image.
//!
//! The frontends of older engines do not support named contexts. All of them support stages.

use super::StageImage;
use super::named::{self, NamedContext};
use crate::docker::DockerError;
use crate::docker::context::ContextError;
use bollard_buildkit_proto::fsutil::types::Stat;
use regex::Regex;
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Some editors write it at the start of UTF-8 files.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// The Dockerfile with its ignore file, which BuildKit requests as the directory `dockerfile`.
pub(crate) struct Dockerfile {
    files: BTreeMap<String, Vec<u8>>,
    name: String,
    path: PathBuf,
    /// How many lines were added, and after which line of the file.
    added: (usize, usize),
    /// The lines of heredocs, from 1.
    heredocs: Vec<usize>,
    /// The files of the context that its instructions name, as written.
    sources: Vec<String>,
}

impl Dockerfile {
    /// Reads the Dockerfile and its own ignore file, and adds stages.
    pub(crate) fn read(path: &Path, stages: &[StageImage]) -> Result<Self, DockerError> {
        let mut dockerfile = Self::load(path)?;
        let (text, added) = with_stages(&dockerfile.text(), stages);
        if added.0 > 0 {
            dockerfile.set_text(&text);
            dockerfile.added = added;
        }
        Ok(dockerfile)
    }

    /// The same for a frontend that knows named contexts. Returns the names under which the Dockerfile uses them.
    pub(crate) fn read_with_contexts(
        path: &Path,
        contexts: &[NamedContext],
        arguments: &[(String, String)],
    ) -> Result<(Self, Vec<Option<String>>), DockerError> {
        let mut dockerfile = Self::load(path)?;
        let text = dockerfile.text();
        let renamed = named::rename(&text, contexts, |word| {
            let given = arguments.iter().cloned().collect();
            expand(word, &Outline::parse(&text).arguments(&given)).unwrap_or_default()
        });
        if renamed.text != text {
            dockerfile.set_text(&renamed.text);
        }
        Ok((dockerfile, renamed.names))
    }

    fn load(path: &Path) -> Result<Self, DockerError> {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let read = |path: &Path| match fs::read(path) {
            Ok(content) => Ok(Some(content)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(ContextError::Read { path: path.to_owned(), source }),
        };
        let missing = || DockerError::NoDockerfile(path.to_owned());
        let content = if path.is_file() { read(path)?.ok_or_else(missing)? } else { return Err(missing()) };
        let ignore = format!("{name}.dockerignore");
        let mut files: BTreeMap<_, _> =
            read(&path.with_file_name(&ignore))?.map(|content| (ignore, content)).into_iter().collect();
        files.insert(name.clone(), content);
        let dockerfile = Self {
            files,
            name,
            path: path.to_owned(),
            added: (0, 0),
            sources: Vec::new(),
            heredocs: Vec::new(),
        };
        // Some engines end when they read a file without a stage (moby/moby#49858). The frontends of other languages have
        // stages of their own.
        let outline = Outline::parse(&dockerfile.text());
        if outline.first.is_none()
            && outline.syntax.as_ref().is_none_or(|syntax| syntax.contains("docker/dockerfile"))
        {
            return Err(DockerError::NoStage(path.to_owned()));
        }
        Ok(Self { sources: outline.sources(), heredocs: outline.heredocs, ..dockerfile })
    }

    /// Returns the text. Bytes are mapped to characters and back: only ASCII matters here, and other bytes are preserved
    /// in any encoding.
    fn text(&self) -> String {
        let content = self.files.get(&self.name).map(Vec::as_slice).unwrap_or_default();
        let bytes = content.strip_prefix(BYTE_ORDER_MARK).unwrap_or(content);
        bytes.iter().map(|byte| char::from(*byte)).collect()
    }

    fn set_text(&mut self, text: &str) {
        let content = text.chars().map(|character| u8::try_from(character).unwrap_or(b'?')).collect();
        self.files.insert(self.name.clone(), content);
    }

    /// Returns the file name for BuildKit.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Returns the path on this machine.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the files in order, with their stats. Their modification time is now, because BuildKit considers files
    /// with equal size and time to be equal.
    pub(crate) fn files(&self) -> Vec<(Stat, Vec<u8>)> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let stat = |name: &String, content: &Vec<u8>| Stat {
            path: name.clone(),
            mode: 0o644,
            size: i64::try_from(content.len()).unwrap_or(i64::MAX),
            mod_time: i64::try_from(now.as_nanos()).unwrap_or(i64::MAX),
            ..Stat::default()
        };
        self.files.iter().map(|(name, content)| (stat(name, content), content.clone())).collect()
    }

    /// Whether a line of the original file, from 1, is part of a heredoc.
    pub(crate) fn is_in_heredoc(&self, line: usize) -> bool {
        self.heredocs.contains(&line)
    }

    /// The files of the context that its instructions name, as written.
    pub(crate) fn sources(&self) -> &[String] {
        &self.sources
    }

    /// Corrects the line numbers in a message of BuildKit to those of the original file.
    pub(crate) fn own_lines(&self, message: &str) -> String {
        let (lines, after) = self.added;
        if lines == 0 {
            return message.to_owned();
        }
        let name = regex::escape(&self.name);
        let Ok(numbers) = Regex::new(&format!(r"(parse error (?:on )?line |\b{name}:)(\d+)")) else {
            return message.to_owned();
        };
        let own = |found: &regex::Captures<'_>| {
            let number: usize = found[2].parse().unwrap_or_default();
            format!("{}{}", &found[1], if number > after + lines { number - lines } else { number })
        };
        numbers.replace_all(message, own).into_owned()
    }
}

/// The parts of a Dockerfile that matter for adding stages. Positions are in bytes.
#[derive(Default)]
struct Outline {
    /// The position of the first `FROM`, and the number of lines before it.
    first: Option<(usize, usize)>,
    /// The numbers of stages in `--from=` and in `from=` of a mount, with their positions.
    numbers: Vec<(Range<usize>, usize)>,
    /// The words of each instruction, which begin with its name, and its flags.
    instructions: Vec<(Vec<String>, Vec<String>)>,
    /// The image of the frontend, from `# syntax=`.
    syntax: Option<String>,
    /// The lines of heredocs, from 1.
    heredocs: Vec<usize>,
}

impl Outline {
    /// Parses the instructions. Handles continuation lines and comments between them, and skips the contents of
    /// heredocs.
    fn parse(text: &str) -> Self {
        let mut outline = Self::default();
        let mut escape = '\\';
        let mut heredocs: Vec<String> = Vec::new();
        // The words and flags of the current instruction.
        let (mut words, mut flag_words): (Vec<String>, Vec<String>) = (Vec::new(), Vec::new());
        let (mut flags, mut directives, mut at) = (true, true, 0);
        for (number, line) in text.split_inclusive('\n').enumerate() {
            let start = at;
            at += line.len();
            let trimmed = line.trim();
            if let Some(end) = heredocs.first() {
                outline.heredocs.push(number + 1);
                if trimmed == end {
                    heredocs.remove(0);
                }
                continue;
            }
            let directive = directive(trimmed).filter(|_| directives);
            // The first line that is no directive ends them (moby/moby#22268).
            directives = directive.is_some();
            if trimmed.is_empty() || trimmed.starts_with('#') {
                match directive {
                    Some((name, value)) if name.eq_ignore_ascii_case("escape") => {
                        escape = value.chars().next().unwrap_or(escape);
                    }
                    Some((name, value)) if name.eq_ignore_ascii_case("syntax") => {
                        outline.syntax = value.split_whitespace().next().map(ToOwned::to_owned);
                    }
                    _ => {}
                }
                continue;
            }
            let content = trimmed.strip_suffix(escape);
            for word in content.unwrap_or(trimmed).split_whitespace() {
                let begin = start + (word.as_ptr() as usize - line.as_ptr() as usize);
                if words.is_empty() {
                    flags = true;
                    if word.eq_ignore_ascii_case("from") && outline.first.is_none() {
                        outline.first = Some((start, number));
                    }
                    words.push(word.to_ascii_uppercase());
                } else if flags && word.starts_with("--") {
                    outline.numbers.extend(stage_number(word, begin));
                    flag_words.push(word.to_owned());
                } else {
                    flags = false;
                    words.push(word.to_owned());
                }
            }
            if content.is_none() {
                heredocs = heredocs_of(&words);
                outline.instructions.push((std::mem::take(&mut words), std::mem::take(&mut flag_words)));
            }
        }
        outline
    }

    /// The arguments that `FROM` may use, with their values. `given` has those of the build.
    fn arguments(&self, given: &HashMap<String, String>) -> HashMap<String, String> {
        let mut known = HashMap::new();
        let before =
            self.instructions.iter().take_while(|(words, _)| words.first().is_none_or(|word| word != "FROM"));
        for (words, _) in before.filter(|(words, _)| words.first().is_some_and(|word| word == "ARG")) {
            for word in &words[1..] {
                let (name, default) = word.split_once('=').unwrap_or((word, ""));
                let default = expand(default.trim_matches(['"', '\'']), &known).unwrap_or_default();
                known.insert(name.to_owned(), given.get(name).cloned().unwrap_or(default));
            }
        }
        known
    }
}

impl Outline {
    /// The files of the context that `COPY`, `ADD` and mounts name.
    fn sources(&self) -> Vec<String> {
        let mut sources = Vec::new();
        for (words, flags) in &self.instructions {
            let is_of_context = |flag: &String| !flag.contains("from=");
            match words.split_first() {
                Some((kind, paths)) if kind == "COPY" || kind == "ADD" => {
                    let paths = paths.split_last().map(|(_, sources)| sources).unwrap_or_default();
                    if flags.iter().all(is_of_context) {
                        // The form of a JSON list has brackets, quotes and commas.
                        sources.extend(
                            paths.iter().map(|path| path.trim_matches(['[', '"', ',', ']']).to_owned()),
                        );
                    }
                }
                _ => {
                    let mounts = flags.iter().filter(|flag| is_of_context(flag));
                    let parts = mounts
                        .filter_map(|flag| flag.strip_prefix("--mount="))
                        .flat_map(|mount| mount.split(','));
                    let named =
                        parts.filter_map(|part| part.strip_prefix("source=").or(part.strip_prefix("src=")));
                    sources.extend(named.map(ToOwned::to_owned));
                }
            }
        }
        sources
    }
}

/// The name and value of a directive: `# name=value`, and the name has only letters and digits.
fn directive(line: &str) -> Option<(&str, &str)> {
    let (name, value) = line.strip_prefix('#')?.split_once('=')?;
    let (name, value) = (name.trim(), value.trim());
    let is_name = name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.chars().all(|c| c.is_ascii_alphanumeric());
    (is_name && !value.is_empty()).then_some((name, value))
}

/// Returns the images that a Dockerfile uses in `FROM`, `COPY --from`, mounts and `# syntax=`, each once and without
/// the names in `own`. An `Err` is a name with unknown arguments, which are kept as written.
pub(crate) fn base_images(
    text: &str,
    arguments: &HashMap<String, String>,
    own: &[String],
) -> Vec<Result<String, String>> {
    let outline = Outline::parse(text);
    let known = outline.arguments(arguments);
    let (mut stages, mut images): (Vec<String>, Vec<_>) = (Vec::new(), Vec::new());
    images.extend(outline.syntax.map(Ok));
    let mut add = |word: &str, known: &HashMap<String, String>, stages: &[String]| {
        let image = expand(word, known);
        let is_image = image.as_ref().map_or(true, |name| {
            let is_stage = stages.iter().chain(own).any(|stage| stage.eq_ignore_ascii_case(name));
            !is_stage && name != "scratch" && !name.bytes().all(|byte| byte.is_ascii_digit())
        });
        if is_image && !images.contains(&image) {
            images.push(image);
        }
    };
    for (words, flags) in outline.instructions {
        let Some((instruction, words)) = words.split_first() else { continue };
        if instruction == "FROM" {
            add(words.first().map(String::as_str).unwrap_or_default(), &known, &stages);
            let stage = words.get(1).filter(|word| word.eq_ignore_ascii_case("as")).and(words.get(2));
            stages.push(stage.cloned().unwrap_or_default());
        }
        for flag in flags {
            let parts = flag
                .strip_prefix("--mount=")
                .or(flag.strip_prefix("--").filter(|flag| flag.starts_with("from=")));
            let from = parts.and_then(|parts| parts.split(',').find_map(|part| part.strip_prefix("from=")));
            if let Some(name) = from {
                add(name, &known, &stages);
            }
        }
    }
    images
}

/// Expands arguments in a word. Returns `Err` if some are unknown, which are kept as written.
fn expand(word: &str, known: &HashMap<String, String>) -> Result<String, String> {
    let (mut text, mut rest, mut is_known) = (String::new(), word, true);
    while let Some((before, after)) = rest.split_once('$') {
        text.push_str(before);
        let braced = after.strip_prefix('{').and_then(|after| after.split_once('}'));
        let (name, tail) = braced.unwrap_or_else(|| {
            let end = after.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            after.split_at(end.unwrap_or(after.len()))
        });
        let (name, default) = name.split_once(":-").map_or((name, None), |(name, text)| (name, Some(text)));
        let value = known.get(name).map(String::as_str).filter(|value| !value.is_empty()).or(default);
        is_known &= value.is_some();
        text.push_str(value.unwrap_or(&rest[before.len()..rest.len() - tail.len()]));
        rest = tail;
    }
    text.push_str(rest);
    if is_known { Ok(text) } else { Err(text) }
}

/// Returns the end markers of the heredocs that an instruction opens.
fn heredocs_of(words: &[String]) -> Vec<String> {
    let Some((kind, rest)) = words.split_first() else { return Vec::new() };
    if !["RUN", "COPY", "ADD"].contains(&kind.as_str()) {
        return Vec::new();
    }
    let ends = rest.iter().filter_map(|word| word.strip_prefix("<<"));
    let ends = ends.map(|end| end.trim_start_matches('-').trim_matches(['"', '\'']).to_owned());
    ends.filter(|end| !end.is_empty() && !end.starts_with('<')).collect()
}

/// Returns the number of a stage in a flag that begins at `begin`: `--from=0`, or `from=0` in `--mount=`.
fn stage_number(flag: &str, begin: usize) -> Option<(Range<usize>, usize)> {
    let (parts, mut at) = if flag.starts_with("--from=") {
        (&flag["--".len()..], begin + "--".len())
    } else {
        (flag.strip_prefix("--mount=")?, begin + "--mount=".len())
    };
    for part in parts.split(',') {
        let value = part.strip_prefix("from=");
        if let Some((value, number)) = value.and_then(|value| Some((value, value.parse().ok()?))) {
            let begin = at + "from=".len();
            return Some((begin..begin + value.len(), number));
        }
        at += part.len() + 1;
    }
    None
}

/// Adds a stage for each name before the first stage. Returns the text, the number of added lines, and the line after
/// which they are. A stage of the Dockerfile with the same name takes precedence after its definition, so `FROM base AS
/// base` works. BuildKit does not build stages that are not used.
fn with_stages(text: &str, stages: &[StageImage]) -> (String, (usize, usize)) {
    let outline = Outline::parse(text);
    let stage = |StageImage { name, image, platform }: &StageImage| {
        let platform =
            platform.as_ref().map(|platform| format!("--platform={platform} ")).unwrap_or_default();
        format!("FROM {platform}{image} AS {name}\n")
    };
    let added: Vec<String> = stages.iter().map(stage).collect();
    let (Some((first, lines)), false) = (outline.first, added.is_empty()) else {
        return (text.to_owned(), (0, 0));
    };
    let mut result = text[..first].to_owned() + &added.concat();
    let mut done = first;
    for (range, number) in outline.numbers.into_iter().filter(|(range, _)| range.start >= first) {
        result.push_str(&text[done..range.start]);
        result.push_str(&(number + added.len()).to_string());
        done = range.end;
    }
    result.push_str(&text[done..]);
    (result, (added.len(), lines))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stages() -> Vec<StageImage> {
        let stage = |name: &str, image: &str, platform: Option<&str>| StageImage {
            name: name.to_owned(),
            image: image.to_owned(),
            platform: platform.map(ToOwned::to_owned),
        };
        vec![stage("base", "local.invalid/b:1", None), stage("docs", "x/docs:2", Some("linux/amd64"))]
    }

    #[test]
    fn stages_are_added_before_the_first_and_after_arguments() {
        let (text, added) = with_stages(
            "# syntax=docker/dockerfile:1\nARG V=1\nFROM base\nCOPY --from=docs /a /\nCOPY --link --from=0 /b /\n",
            &stages(),
        );
        assert_eq!(
            text,
            "# syntax=docker/dockerfile:1\nARG V=1\nFROM local.invalid/b:1 AS base\nFROM --platform=linux/amd64 x/docs:2 AS docs\nFROM base\nCOPY --from=docs /a /\nCOPY --link --from=2 /b /\n"
        );
        assert_eq!(added, (2, 2));
    }

    #[test]
    fn only_numbers_of_stages_in_flags_are_raised() {
        let text = "from a\nRUN --mount=type=cache,target=/x \\\n  # a comment\n  --mount=type=bind,from=0,target=/y --mount=from=1 make --from=3\r\ncopy \\\n --from=0 /a /b\nRUN <<END cat\nCOPY --from=0 /a\nFROM x AS docs\nEND\nCOPY --from=0x /a /b\n";
        let (text, _) = with_stages(text, &stages());
        assert_eq!(
            text,
            "FROM local.invalid/b:1 AS base\nFROM --platform=linux/amd64 x/docs:2 AS docs\nfrom a\nRUN --mount=type=cache,target=/x \\\n  # a comment\n  --mount=type=bind,from=2,target=/y --mount=from=3 make --from=3\r\ncopy \\\n --from=2 /a /b\nRUN <<END cat\nCOPY --from=0 /a\nFROM x AS docs\nEND\nCOPY --from=0x /a /b\n"
        );
    }

    #[test]
    fn base_images_are_found_in_all_instructions() {
        let text = "# syntax=docker/dockerfile:1\nARG V=1\nARG BASE=alpine:${V}\nFROM --platform=x $BASE AS build\nRUN --mount=type=bind,from=tools:2,target=/t make\nFROM scratch\nCOPY --from=build /a /\nCOPY --from=other:3 \\\n  /b /\nCOPY --from=0 /c /\nCOPY --from=dep /d /\nARG NAME\nRUN <<END\nFROM no/image\nEND\n";
        let given = HashMap::from([("V".to_owned(), "7".to_owned())]);
        let own = ["dep".to_owned()];
        let images = |text: &str| base_images(text, &given, &own);
        let all = |names: &[&str]| names.iter().map(|name| Ok((*name).to_owned())).collect::<Vec<_>>();
        assert_eq!(images(text), all(&["docker/dockerfile:1", "alpine:7", "tools:2", "other:3"]));
        assert_eq!(images("ARG A\nFROM ${A:-b}:$V\n"), [Err("b:$V".to_owned())]);
        assert_eq!(images("ARG A\nFROM ${A:-b}\nFROM b\n"), all(&["b"]));
    }

    #[test]
    fn sources_are_the_files_of_the_context() {
        let text = "FROM a AS b\nCOPY --chown=1 a.txt \\\n  ./d/ /to\nADD [\"x y\", \"z\", \"/\"]\nCOPY --from=b /no /no\nRUN --mount=type=bind,source=m/n,target=/x --mount=from=b,src=no true\nCOPY <<E /f\nCOPY no /\nE\n";
        let sources = Outline::parse(text).sources();
        assert_eq!(sources, ["a.txt", "./d/", "x", "y", "z", "m/n", "<<E"]);
    }

    #[test]
    fn another_escape_character_is_honoured() {
        let text = "# escape=`\nFROM a\nCOPY `\n --from=0 C:\\ /b\n";
        let (text, _) = with_stages(text, &stages()[..1]);
        assert_eq!(text, "# escape=`\nFROM local.invalid/b:1 AS base\nFROM a\nCOPY `\n --from=1 C:\\ /b\n");
    }

    /// Findings, C1.
    #[test]
    fn directives_end_at_the_first_line_that_is_none() {
        let escape = |head: &str| {
            let text = format!("{head}FROM a\nCOPY \\\n --from=0 /a /b\nCOPY --from=0 /c /d\n");
            Outline::parse(&text).numbers.len()
        };
        // With the backslash as the escape character both numbers are found in instructions.
        for head in
            ["", "# my app\n# escape=`\n", "\n# escape=`\n", "#\n# escape=`\n", "# a b=c\n# escape=`\n"]
        {
            let instructions = Outline::parse(&format!("{head}FROM a\nRUN \\\n x\n")).instructions.len();
            assert_eq!((escape(head), instructions), (2, 2), "{head:?}");
        }
        for head in
            ["# escape=`\n", "# syntax=docker/dockerfile:1\n#ESCAPE = `\n", "# check=skip=all\n# escape=`\n"]
        {
            let instructions = Outline::parse(&format!("{head}FROM a\nRUN \\\n x\n")).instructions.len();
            assert_eq!(instructions, 3, "{head:?}");
        }
    }

    /// Findings, C2.
    #[test]
    fn a_file_without_a_stage_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("Dockerfile");
        let read = |text: &str| {
            fs::write(&path, text).unwrap();
            Dockerfile::read(&path, &[]).map(|_| ())
        };
        for text in [
            "ARG A=1\n",
            "",
            "# a comment\n",
            "RUN true\n",
            "# syntax=docker/dockerfile:1\nARG A\n",
            "#FROM a\n",
        ] {
            assert!(matches!(read(text), Err(DockerError::NoStage(_))), "{text:?}");
        }
        for text in ["FROM scratch\n", "ARG A=1\nfrom ${A}\n", "# syntax=example.com/other\nversion: 1\n"] {
            assert!(read(text).is_ok(), "{text:?}");
        }
    }

    #[test]
    fn line_numbers_are_those_of_the_file() {
        let dockerfile = Dockerfile {
            files: BTreeMap::new(),
            name: "web.Dockerfile".to_owned(),
            path: PathBuf::new(),
            added: (2, 1),
            heredocs: Vec::new(),
            sources: Vec::new(),
        };
        assert_eq!(
            dockerfile.own_lines("dockerfile parse error line 7: x"),
            "dockerfile parse error line 5: x"
        );
        assert_eq!(
            dockerfile.own_lines("dockerfile parse error line 1: x"),
            "dockerfile parse error line 1: x"
        );
    }
}
