//! Reads the pipeline file and the environment for all commands.

use super::printer::Printer;
use super::session::Session;
use crate::connections::Settings;
use crate::docker::host::Endpoint;
use crate::duration;
use crate::exit::Failure;
use crate::language::diagnostic::{Diagnostic, Severity};
use crate::language::pipeline::model::Pipeline;
use crate::language::pipeline::starter;
use crate::language::source::SourceFile;
use crate::language::{MAX_BYTES, pipeline};
use crate::limits;
use crate::origin;
use crate::plan::context::BuildContext;
use crate::plan::scope::{Sources, Values};
use crate::plan::{self, Mode, environment};
use crate::proxy::Proxies;
use crate::secret::Masks;
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::ffi::OsString;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Which pipeline a command works with, and how.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Request<'a> {
    /// The pipeline file.
    pub(crate) file: &'a Path,
    /// `--publish` or `--local`. By default a run publishes in CodeBuild and stays local elsewhere.
    pub(crate) mode: Option<Mode>,
    /// `--no-publish`
    pub(crate) no_publish: bool,
    /// `--env-file`
    pub(crate) env_file: Option<&'a Path>,
    /// The run happens elsewhere: values that CodeBuild and git provide there count as known.
    pub(crate) elsewhere: bool,
    /// Print mistakes in the file as the JSON document of `validate` on stdout, instead of text on stderr.
    pub(crate) json: bool,
}

/// The mode that `--publish` and `--local` select.
pub(crate) fn mode(publish: bool, local: bool) -> Option<Mode> {
    match (publish, local) {
        (true, _) => Some(Mode::Publish),
        (_, true) => Some(Mode::Local),
        _ => None,
    }
}

/// A pipeline and its environment.
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

/// Reads the file and joins it with the environment. Secrets that have a value here are masked from then on. Prints mistakes
/// in the file, and fails if it has any.
pub(crate) async fn load(request: &Request<'_>, session: &Session) -> Result<Loaded, Failure> {
    // These files may be pipes, which must not keep a signal from ending the command.
    let path = request.file.to_owned();
    let source = blocking(move || read(&path)).await?;
    let refuse = |problems: &[Diagnostic]| refuse(&source, problems, request.json, &session.printer);
    let pipeline = pipeline::parse(&source).into_valid().map_err(|problems| refuse(&problems))?;
    let unreadable = |error: std::io::Error| {
        Failure::usage(format!("cannot read {}: {error}", request.file.display()))
            .limited(limits::advice(&error))
    };
    // A pipe, such as the shell's `<(…)`, is in no directory of a project.
    let (file, directory) = if request.file.is_file() {
        let file = request.file.canonicalize().map_err(unreadable)?;
        let directory = file.parent().unwrap_or(Path::new("/")).to_owned();
        (file, directory)
    } else {
        (request.file.to_owned(), std::env::current_dir().map_err(unreadable)?)
    };
    let mut process = process();
    let path = request.env_file.map(Path::to_owned);
    let env_file = blocking(move || env_file(path.as_deref())).await?;
    let named = env_file.iter().filter(|(name, _)| starter::VARIABLES.contains(&name.as_str())).cloned();
    process.extend(named);
    let mut context = origin::detect(&process, &directory).await?;
    if request.no_publish {
        context.publishes_nothing = Some("this project does not publish".to_owned());
    }
    let publishes = context.in_codebuild() || request.elsewhere;
    let mode = request.mode.unwrap_or(if publishes { Mode::Publish } else { Mode::Local });
    let sources = Sources {
        process: process.clone().into_iter().collect(),
        env_file,
        process_wins: context.in_codebuild(),
        elsewhere: request.elsewhere,
    };
    let (values, problems) = plan::values(&pipeline, &sources, &context, mode);
    mask(&pipeline, &values, &context, &session.masks);
    if !problems.is_empty() {
        return Err(refuse(&problems));
    }
    Ok(Loaded { pipeline, source, file, directory, process, context, mode, values })
}

/// Runs something that blocks on another thread.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(Failure::environment(format!("cannot read a file: {error}"))))
}

/// The variables with AWS keys. They are secrets whether or not the pipeline file names them.
const AWS_KEYS: [&str; 5] = [
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_SECURITY_TOKEN",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN",
];
/// The least length of a key, in bytes (API reference of STS, `Credentials`). Shorter values belong to test servers.
const SHORTEST_KEY: usize = 16;

/// Masks the secrets of the pipeline that have a value here.
pub(crate) fn mask(pipeline: &Pipeline, values: &Values, context: &BuildContext, masks: &Masks) {
    let public = plan::public_values(pipeline, context);
    for secret in pipeline.secret_names().into_iter().filter_map(|name| values.secret(name)) {
        masks.add_document(&secret, &public);
    }
    for secret in AWS_KEYS.into_iter().filter_map(|name| values.secret(name)) {
        if secret.expose().len() >= SHORTEST_KEY {
            masks.add(&secret);
        }
    }
}

/// The variables of the environment that are UTF-8.
pub(crate) fn process() -> HashMap<String, String> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

/// The variables of the environment that are not UTF-8.
pub(crate) fn not_text() -> Vec<(OsString, OsString)> {
    std::env::vars_os().filter(|(name, value)| name.to_str().and(value.to_str()).is_none()).collect()
}

/// Reads a pipeline file.
pub(crate) fn read(path: &Path) -> Result<SourceFile, Failure> {
    let unreadable =
        |reason: &str| Failure::usage(format!("cannot read the pipeline file {}: {reason}", path.display()));
    let metadata = std::fs::metadata(path).map_err(|error| {
        let failure = unreadable(&error.to_string());
        // The other usual spelling.
        let other =
            path.with_extension(if path.extension().is_some_and(|it| it == "yaml") { "yml" } else { "yaml" });
        if other.is_file() {
            return failure.help(format!("did you mean `{}`?", other.display()));
        }
        failure.help(
            "change to the directory of pipeline.yml, or name the file (`--file FILE`, `validate FILE`)",
        )
    })?;
    if metadata.is_dir() {
        return Err(unreadable("it is a directory").help("name a file in it"));
    }
    let too_large = || {
        unreadable(&format!("it is larger than {} KiB", MAX_BYTES / 1024))
            .help("move data out of the pipeline file into other files")
    };
    if metadata.len() > MAX_BYTES {
        return Err(too_large());
    }
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut bytes))
        .map_err(|error| unreadable(&error.to_string()).limited(limits::advice(&error)))?;
    // The size in the metadata is only right for regular files.
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

/// Prints diagnostics to stderr.
pub(crate) fn show(source: &SourceFile, diagnostics: &[Diagnostic], printer: &Printer) {
    let render = |diagnostic: &Diagnostic| format!("{}\n", diagnostic.render(source, printer.stderr_color));
    let texts: Vec<String> = diagnostics.iter().map(render).collect();
    if !texts.is_empty() {
        printer.message(&texts.join("\n"));
    }
}

/// `an error`, `3 errors`.
pub(crate) fn count(diagnostics: &[Diagnostic]) -> String {
    match diagnostics.iter().filter(|diagnostic| diagnostic.severity == Severity::Error).count() {
        1 => "an error".to_owned(),
        count => format!("{count} errors"),
    }
}

/// Prints the mistakes in the file, and returns the failure for it.
pub(crate) fn refuse(source: &SourceFile, problems: &[Diagnostic], json: bool, printer: &Printer) -> Failure {
    if json {
        let validation = Validation::new(vec![FileReport::new(source, problems)]);
        if let Err(unwritten) = printer.json(&validation) {
            return unwritten;
        }
    } else {
        show(source, problems, printer);
    }
    Failure::usage(format!("{} has {}; nothing was run", source.name, count(problems)))
}

/// The JSON document of `validate`. Other commands print it if the pipeline file is invalid.
#[derive(Debug, Serialize)]
pub(crate) struct Validation {
    version: u32,
    pub(crate) valid: bool,
    files: Vec<FileReport>,
}

impl Validation {
    pub(crate) fn new(files: Vec<FileReport>) -> Self {
        Self { version: 1, valid: files.iter().all(|file| file.valid), files }
    }
}

/// The diagnostics of a file.
#[derive(Debug, Serialize)]
pub(crate) struct FileReport {
    file: String,
    pub(crate) valid: bool,
    diagnostics: Vec<Value>,
}

impl FileReport {
    pub(crate) fn new(source: &SourceFile, diagnostics: &[Diagnostic]) -> Self {
        Self {
            file: source.name.clone(),
            valid: !diagnostics.iter().any(|diagnostic| diagnostic.severity == Severity::Error),
            diagnostics: diagnostics.iter().map(|diagnostic| diagnostic.to_json(source)).collect(),
        }
    }

    /// A file that cannot be read.
    pub(crate) fn unreadable(path: &Path, failure: &Failure) -> Self {
        let problem =
            json!({ "severity": Severity::Error, "message": failure.message, "help": failure.help });
        Self { file: path.display().to_string(), valid: false, diagnostics: vec![problem] }
    }
}

fn env_file(path: Option<&Path>) -> Result<Vec<(String, String)>, Failure> {
    let Some(path) = path else {
        return Ok(Vec::new());
    };
    let unreadable = |reason: String| {
        Failure::usage(format!("cannot read the environment file {}: {reason}", path.display()))
    };
    // It may be a pipe, such as the shell's `<(…)`.
    let mut text = String::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(MAX_BYTES + 1).read_to_string(&mut text))
        .map_err(|error| unreadable(error.to_string()).limited(limits::advice(&error)))?;
    if text.len() as u64 > MAX_BYTES {
        return Err(unreadable(format!("it is larger than {} KiB", MAX_BYTES / 1024)));
    }
    environment::parse(&text).map_err(|error| unreadable(error.to_string()))
}

/// The directory for the files for CodePipeline when publishing: CodeBuild collects artifacts from the root of the source.
pub(crate) fn artifacts(process: &HashMap<String, String>, directory: &Path) -> PathBuf {
    let root = process.get("CODEBUILD_SRC_DIR").filter(|_| process.contains_key("CODEBUILD_BUILD_ID"));
    root.map_or_else(|| directory.to_owned(), PathBuf::from)
}

/// The variable for how long a registry may be silent, and its default.
const REGISTRY_TIMEOUT: &str = "RUNNER_REGISTRY_TIMEOUT";
const DEFAULT_REGISTRY_TIMEOUT: Duration = Duration::from_mins(1);

/// The variable for how long calls of a registry are retried, and its default.
const REGISTRY_PATIENCE: &str = "RUNNER_REGISTRY_PATIENCE";
const DEFAULT_REGISTRY_PATIENCE: Duration = Duration::from_mins(1);

/// The variable for the interval at which deployments are polled, in milliseconds. By default it grows from one second to five.
const ECS_POLL: &str = "RUNNER_ECS_POLL";

/// The variable for whether images may be read in the engine's storage, and the value that forbids it.
const ENGINE_STORAGE: &str = "RUNNER_ENGINE_STORAGE";
const OFF: &str = "off";

/// Reads the settings of connections from environment variables.
pub(crate) fn settings(process: &HashMap<String, String>) -> Result<Settings, Failure> {
    let get = |name: &str| process.get(name).filter(|value| !value.is_empty());
    Proxies::from_environment()
        .map_err(|error| Failure::usage(error.to_string()).help("write `http://HOST:PORT`, or unset it"))?;
    let docker = get("DOCKER_CONFIG")
        .map(PathBuf::from)
        .or_else(|| get("HOME").map(|home| Path::new(home).join(".docker")));
    let ecs_poll = match get(ECS_POLL).map(|text| text.parse::<u64>()).transpose() {
        Ok(poll) => poll.filter(|poll| *poll > 0),
        Err(_) => {
            return Err(Failure::usage(format!("the variable {ECS_POLL} must be a number of milliseconds")));
        }
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
        registry_timeout: time(REGISTRY_TIMEOUT)?.unwrap_or(DEFAULT_REGISTRY_TIMEOUT),
        registry_patience: time(REGISTRY_PATIENCE)?.unwrap_or(DEFAULT_REGISTRY_PATIENCE),
        ecs_poll: ecs_poll.map(Duration::from_millis),
        path: get("PATH").map(OsString::from).unwrap_or_default(),
    })
}

impl Loaded {
    /// The settings of connections, from the environment of this process.
    pub(crate) fn settings(&self) -> Result<Settings, Failure> {
        settings(&self.process)
    }
}
