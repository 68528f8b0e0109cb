//! From a pipeline file and the environment to everything that the commands start from.

use super::stdio;
use crate::connections::Settings;
use crate::docker::host::Endpoint;
use crate::duration;
use crate::exit::Failure;
use crate::language::diagnostic::{Diagnostic, Severity};
use crate::language::pipeline::model::Pipeline;
use crate::language::source::SourceFile;
use crate::language::{MAX_BYTES, pipeline};
use crate::origin;
use crate::plan::context::BuildContext;
use crate::plan::scope::{Sources, Values};
use crate::plan::{self, Mode, environment};
use crate::secret::Masks;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::ffi::OsString;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What the user asks for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Request<'a> {
    /// The pipeline file.
    pub(crate) file: &'a Path,
    /// `--publish` or `--local`; the place decides where there is neither.
    pub(crate) mode: Option<Mode>,
    /// `--env-file`
    pub(crate) env_file: Option<&'a Path>,
    /// The run happens elsewhere: what CodeBuild and git will say there counts as known.
    pub(crate) elsewhere: bool,
    /// How mistakes in the file are shown.
    pub(crate) show: Show,
}

/// How mistakes in the file are shown.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Show {
    /// As text on stderr, in colour where that is a terminal.
    Text {
        /// `--no-color`
        no_color: bool,
    },
    /// As the JSON document of `validate` on stdout.
    Json,
}

/// What `--publish` and `--local` say.
pub(crate) fn mode(publish: bool, local: bool) -> Option<Mode> {
    match (publish, local) {
        (true, _) => Some(Mode::Publish),
        (_, true) => Some(Mode::Local),
        _ => None,
    }
}

/// A pipeline with all that surrounds it.
pub(crate) struct Loaded {
    pub(crate) pipeline: Pipeline,
    pub(crate) source: SourceFile,
    /// The pipeline file, as a full path.
    pub(crate) file: PathBuf,
    /// Its directory.
    pub(crate) directory: PathBuf,
    /// The environment of this process.
    pub(crate) process: HashMap<String, String>,
    pub(crate) context: BuildContext,
    pub(crate) mode: Mode,
    pub(crate) values: Values,
}

/// Reads the file and joins it with the environment. Mistakes in it are shown, and are a failure.
pub(crate) fn load(request: &Request<'_>) -> Result<Loaded, Failure> {
    let source = read(request.file)?;
    let refuse = |problems: &[Diagnostic]| refuse(&source, problems, request.show);
    let pipeline = pipeline::parse(&source).into_valid().map_err(|problems| refuse(&problems))?;
    let file = request
        .file
        .canonicalize()
        .map_err(|error| Failure::usage(format!("cannot read {}: {error}", request.file.display())))?;
    let directory = file.parent().unwrap_or(Path::new("/")).to_owned();
    let mut process = process();
    let env_file = env_file(request.env_file)?;
    let named = env_file.iter().filter(|(name, _)| name == "RUNNER_BRANCH").cloned();
    process.extend(named);
    let context = origin::detect(&process, &directory);
    let publishes = context.in_codebuild() || request.elsewhere;
    let mode = request.mode.unwrap_or(if publishes { Mode::Publish } else { Mode::Local });
    let sources = Sources {
        process: process.clone().into_iter().collect(),
        env_file,
        process_wins: context.in_codebuild(),
        elsewhere: request.elsewhere,
    };
    let (values, problems) = plan::values(&pipeline, &sources, &context, mode);
    if !problems.is_empty() {
        return Err(refuse(&problems));
    }
    Ok(Loaded { pipeline, source, file, directory, process, context, mode, values })
}

/// Masks for the secrets whose values are given here.
pub(crate) fn masks(pipeline: &Pipeline, values: &Values) -> Masks {
    let masks = Masks::default();
    for secret in pipeline.secret_names().into_iter().filter_map(|name| values.secret(name)) {
        masks.add(&secret);
    }
    masks
}

/// The environment, as far as it is text.
pub(crate) fn process() -> HashMap<String, String> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

/// The rest of it.
pub(crate) fn not_text() -> Vec<(OsString, OsString)> {
    std::env::vars_os().filter(|(name, value)| name.to_str().and(value.to_str()).is_none()).collect()
}

/// Reads a pipeline file.
pub(crate) fn read(path: &Path) -> Result<SourceFile, Failure> {
    let unreadable =
        |reason: &str| Failure::usage(format!("cannot read the pipeline file {}: {reason}", path.display()));
    let metadata = std::fs::metadata(path).map_err(|error| {
        unreadable(&error.to_string()).help(
            "go to the directory that holds pipeline.yml, or name the file (`--file FILE`, `validate FILE`)",
        )
    })?;
    if metadata.is_dir() {
        return Err(unreadable("it is a directory").help("name the file in it"));
    }
    let too_large = || {
        unreadable(&format!("it is larger than {} KiB", MAX_BYTES / 1024))
            .help("a pipeline file is written by people; put data into files of its own")
    };
    if metadata.len() > MAX_BYTES {
        return Err(too_large());
    }
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut bytes))
        .map_err(|error| unreadable(&error.to_string()))?;
    // What is no regular file has no size that could be trusted.
    if bytes.len() as u64 > MAX_BYTES {
        return Err(too_large());
    }
    match std::str::from_utf8(&bytes) {
        Ok(text) => Ok(SourceFile::new(path.display().to_string(), text)),
        Err(error) => {
            let line = bytes[..error.valid_up_to()].iter().filter(|byte| **byte == b'\n').count() + 1;
            Err(unreadable(&format!("line {line} is not UTF-8")).help("save the file as UTF-8"))
        }
    }
}

/// Shows what is wrong with the file, or worth knowing.
pub(crate) fn show(source: &SourceFile, diagnostics: &[Diagnostic], no_color: bool) {
    let color = stdio::color(&std::io::stderr(), no_color);
    let texts: Vec<String> =
        diagnostics.iter().map(|one| format!("{}\n", one.render(source, color))).collect();
    if !texts.is_empty() {
        stdio::text(&texts.join("\n"));
    }
}

/// `an error`, `3 errors`.
pub(crate) fn count(diagnostics: &[Diagnostic]) -> String {
    match diagnostics.iter().filter(|diagnostic| diagnostic.severity == Severity::Error).count() {
        1 => "an error".to_owned(),
        count => format!("{count} errors"),
    }
}

/// Shows everything that is wrong with the file.
pub(crate) fn refuse(source: &SourceFile, problems: &[Diagnostic], how: Show) -> Failure {
    let failure = Failure::usage(format!("{} has {}; nothing was run", source.name, count(problems)));
    match how {
        Show::Text { no_color } => show(source, problems, no_color),
        Show::Json => {
            let report = json!({ "version": 1, "valid": false, "files": [report(source, problems)] });
            if let Err(unwritten) = stdio::json(&report) {
                return unwritten;
            }
        }
    }
    failure
}

/// What is said of a file, as data.
pub(crate) fn report(source: &SourceFile, diagnostics: &[Diagnostic]) -> Value {
    let valid = !diagnostics.iter().any(|one| one.severity == Severity::Error);
    let diagnostics: Vec<Value> = diagnostics.iter().map(|one| one.to_json(source)).collect();
    json!({ "file": source.name, "valid": valid, "diagnostics": diagnostics })
}

fn env_file(path: Option<&Path>) -> Result<Vec<(String, String)>, Failure> {
    let Some(path) = path else {
        return Ok(Vec::new());
    };
    let unreadable = |reason: String| {
        Failure::usage(format!("cannot read the environment file {}: {reason}", path.display()))
    };
    // It may be a pipe, such as a shell makes of `<(…)`.
    let mut text = String::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(MAX_BYTES + 1).read_to_string(&mut text))
        .map_err(|error| unreadable(error.to_string()))?;
    if text.len() as u64 > MAX_BYTES {
        return Err(unreadable(format!("it is larger than {} KiB", MAX_BYTES / 1024)));
    }
    environment::parse(&text).map_err(|error| unreadable(error.to_string()))
}

/// Where the files for CodePipeline go when publishing: CodeBuild looks for artifacts from the source's root.
pub(crate) fn artifacts(process: &HashMap<String, String>, directory: &Path) -> PathBuf {
    let root = process.get("CODEBUILD_SRC_DIR").filter(|_| process.contains_key("CODEBUILD_BUILD_ID"));
    root.map_or_else(|| directory.to_owned(), PathBuf::from)
}

/// How long a registry may be silent: the variable, and the time where it is not set.
const REGISTRY_TIMEOUT: &str = "RUNNER_REGISTRY_TIMEOUT";
const REGISTRY_PATIENCE: Duration = Duration::from_mins(1);

/// How often a deployment is looked at, in milliseconds: the variable. Where it is not set, from every second at first to every five.
const ECS_POLL: &str = "RUNNER_ECS_POLL";

/// Whether images may be read in the engine's storage: the variable, and the word that keeps runner out of there.
const ENGINE_STORAGE: &str = "RUNNER_ENGINE_STORAGE";
const OFF: &str = "off";

/// How connections are made.
pub(crate) fn settings(process: &HashMap<String, String>) -> Result<Settings, Failure> {
    let get = |name: &str| process.get(name).filter(|value| !value.is_empty());
    let docker = get("DOCKER_CONFIG")
        .map(PathBuf::from)
        .or_else(|| get("HOME").map(|home| Path::new(home).join(".docker")));
    let ecs_poll = match get(ECS_POLL).map(|text| text.parse::<u64>()).transpose() {
        Ok(poll) => poll.filter(|poll| *poll > 0),
        Err(_) => return Err(Failure::usage(format!("the variable {ECS_POLL} is a number of milliseconds"))),
    };
    let time = |name: &str| match get(name).map(|text| duration::parse(text)).transpose() {
        Ok(time) => Ok(time),
        Err(problem) => Err(Failure::usage(format!("the variable {name}: {problem}")).help(duration::HELP)),
    };
    Ok(Settings {
        docker: Endpoint {
            host: get("DOCKER_HOST").cloned(),
            context: get("DOCKER_CONTEXT").cloned(),
            certificates: get("DOCKER_CERT_PATH")
                .map(PathBuf::from)
                .or_else(|| docker.clone())
                .unwrap_or_default(),
            configuration: docker,
            tls_verify: get("DOCKER_TLS_VERIFY").is_some(),
            tls: get("DOCKER_TLS").is_some(),
            reads_storage: get(ENGINE_STORAGE).is_none_or(|value| value != OFF),
        },
        aws_ca_bundle: get("AWS_CA_BUNDLE").map(PathBuf::from),
        in_codebuild: process.contains_key("CODEBUILD_BUILD_ID"),
        registry_patience: time(REGISTRY_TIMEOUT)?.unwrap_or(REGISTRY_PATIENCE),
        ecs_poll: ecs_poll.map(Duration::from_millis),
        path: get("PATH").map(OsString::from).unwrap_or_default(),
    })
}

impl Loaded {
    /// How connections are made.
    pub(crate) fn settings(&self) -> Result<Settings, Failure> {
        settings(&self.process)
    }
}
