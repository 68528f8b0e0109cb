//! `.runner/state.json`: the state that the calls of a build share.

use crate::exit::{Exit, Failure, FailureKind};
use crate::files::{Directory, Readers, WriteError};
use crate::secret::Masks;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::path::Path;

/// The name of the file in `.runner/`.
pub(crate) const FILE: &str = "state.json";
/// The largest state that is read, in bytes.
const LARGEST: u64 = 64 * 1024 * 1024;
/// The version of the file's format.
const VERSION: u32 = 1;

/// The engine's state. The file also has the results of steps, as further fields.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct State {
    version: u32,
    /// The build that it belongs to.
    pub(crate) build_id: String,
    /// The pipeline file, because a directory may have several.
    pipeline: String,
    commit: Option<String>,
    /// `local` or `publish`.
    mode: String,
    /// The phases that have started.
    pub(crate) phases: Vec<String>,
    /// The running phase. If a later call finds one, the process that ran it was killed.
    pub(crate) running: Option<String>,
    /// The first failure.
    pub(crate) failure: Option<RecordedFailure>,
    /// The build has been announced as started.
    pub(crate) announced: bool,
    /// The whole build has been announced as finished.
    pub(crate) ended: bool,
    /// How many calls the build has had, including this one.
    #[serde(default)]
    pub(crate) calls: u32,
    /// The number of the last event.
    #[serde(default)]
    pub(crate) events: u64,
}

/// A failure in the state file.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct RecordedFailure {
    exit: u8,
    #[serde(default)]
    kind: Option<FailureKind>,
    message: String,
    help: Option<String>,
    #[serde(default)]
    place: Option<String>,
}

impl RecordedFailure {
    pub(crate) fn to_failure(&self) -> Failure {
        let Self { exit, kind, message, help, place } = self.clone();
        let failure = Failure { help, place, ..Failure::new(Exit::from_code(exit), message) };
        match kind {
            Some(kind) => failure.kind(kind),
            None => failure,
        }
    }
}

/// What a call has in common with the calls that it may continue.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    /// CodeBuild's build id.
    pub(crate) build_id: Option<String>,
    pub(crate) pipeline: String,
    pub(crate) commit: Option<String>,
    pub(crate) mode: String,
    /// The call names single phases, so it may continue an earlier call's build.
    pub(crate) continues: bool,
}

/// A state, and the results of earlier calls' steps.
pub(crate) type Joined = (State, Map<String, Value>);

impl State {
    /// Returns the state that this call continues, with the results of earlier calls' steps, or a new one.
    ///
    /// In CodeBuild a call continues the same build. Elsewhere it continues a build of the same file, commit and mode
    /// in which none of its phases has run.
    pub(crate) fn join(
        directory: &Directory,
        identity: &Identity,
        phases: &[String],
    ) -> Result<Joined, Failure> {
        let mut found = match read(directory, FILE) {
            // Whether an earlier call has failed is unknown, and a deployment may depend on it.
            Err(reason) if identity.continues || identity.build_id.is_some() => {
                let message = format!(
                    "cannot read {}, which holds the results of earlier calls of this build: {reason}",
                    directory.path().join(FILE).display()
                );
                return Err(Failure::environment(message).help("remove it to start over"));
            }
            found => found.ok().flatten(),
        };
        if let Some((other, _)) = found.take_if(|(state, _)| state.pipeline != identity.pipeline) {
            // The build of another pipeline file in this directory may continue later. Ours may have been set aside
            // before.
            let _ = directory.rename(FILE, &set_aside(&other.pipeline));
            found = read(directory, &set_aside(&identity.pipeline))
                .ok()
                .flatten()
                .filter(|(state, _)| state.pipeline == identity.pipeline);
        }
        let joined = found.filter(|(state, _)| match &identity.build_id {
            Some(build_id) => state.build_id == *build_id,
            None => {
                identity.continues
                    && state.commit == identity.commit
                    && state.mode == identity.mode
                    && state.build_id.starts_with(LOCAL)
                    && !phases.iter().any(|phase| state.phases.contains(phase))
            }
        });
        let (mut state, results) = joined.unwrap_or_else(|| (Self::new(identity), Map::new()));
        state.calls += 1;
        if let Some(phase) = state.running.take() {
            let message = format!("the phase {phase} did not finish: its process was killed");
            state.failure.get_or_insert(RecordedFailure {
                exit: Exit::StepFailed.code(),
                kind: Some(FailureKind::Killed),
                message,
                help: None,
                place: Some(phase),
            });
        }
        Ok((state, results))
    }

    fn new(identity: &Identity) -> Self {
        Self {
            version: VERSION,
            build_id: identity.build_id.clone().unwrap_or_else(local_build_id),
            pipeline: identity.pipeline.clone(),
            commit: identity.commit.clone(),
            mode: identity.mode.clone(),
            phases: Vec::new(),
            running: None,
            failure: None,
            announced: false,
            ended: false,
            calls: 0,
            events: 0,
        }
    }

    /// Records a failure with its place (phase and step), masked. The first failure is kept.
    pub(crate) fn record(&mut self, failure: &Failure, place: Option<&str>, masks: &Masks) {
        let prefix = place.map(|place| format!("{place}: ")).unwrap_or_default();
        self.failure.get_or_insert_with(|| RecordedFailure {
            exit: failure.exit.code(),
            kind: Some(failure.kind),
            message: masks.text(&format!("{prefix}{}", failure.message)),
            help: failure.help.as_ref().map(|help| masks.text(help)),
            place: failure.place.clone(),
        });
    }

    /// Writes the file, which only its owner may read. `results` are those of steps.
    pub(crate) fn save(&self, directory: &Directory, results: Map<String, Value>) -> Result<(), WriteError> {
        let mut document = serde_json::to_value(self).unwrap_or_default();
        if let Some(fields) = document.as_object_mut() {
            fields.extend(results);
        }
        directory.write_json(FILE, &document, Readers::Owner)
    }
}

/// Reads a state file with the results of steps.
fn read(directory: &Directory, name: &str) -> Result<Option<Joined>, String> {
    let bytes = match directory.read_small(name, LARGEST) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
        Ok(bytes) => bytes,
    };
    let document: Map<String, Value> = serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
    let state = State::deserialize(Value::Object(document.clone())).map_err(|error| error.to_string())?;
    if state.version != VERSION {
        return Err("another version of runner wrote it".to_owned());
    }
    let own = serde_json::to_value(&state).unwrap_or_default();
    let results = document.into_iter().filter(|(key, _)| own.get(key).is_none()).collect();
    Ok(Some((state, results)))
}

/// The name of a pipeline file's state while another pipeline file of the same directory runs.
fn set_aside(pipeline: &str) -> String {
    let name = Path::new(pipeline).file_name().unwrap_or_default();
    format!("state-{}.json", name.to_string_lossy())
}

/// The prefix of build ids outside of CodeBuild.
const LOCAL: &str = "local-";

fn local_build_id() -> String {
    let now = jiff::Zoned::now();
    format!("{LOCAL}{}-{}", now.strftime("%Y%m%d-%H%M%S"), std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(build_id: Option<&str>, commit: &str) -> Identity {
        Identity {
            build_id: build_id.map(ToOwned::to_owned),
            pipeline: "pipeline.yml".to_owned(),
            commit: Some(commit.to_owned()),
            mode: "local".to_owned(),
            continues: true,
        }
    }

    fn join(work: &Directory, identity: &Identity, phases: &[String]) -> Result<State, Failure> {
        State::join(work, identity, phases).map(|(state, _)| state)
    }

    fn after_build(identity: &Identity) -> (tempfile::TempDir, Directory, String) {
        let directory = tempfile::tempdir().unwrap();
        let work = Directory::open(directory.path()).unwrap();
        let mut state = join(&work, identity, &["build".to_owned()]).unwrap();
        state.phases.push("build".to_owned());
        state.save(&work, Map::new()).unwrap();
        (directory, work, state.build_id)
    }

    #[test]
    fn a_call_joins_the_same_commit_once_for_each_phase() {
        let (_directory, work, id) = after_build(&identity(None, "a"));
        let call = |commit, phase: &str| join(&work, &identity(None, commit), &[phase.to_owned()]).unwrap();
        assert_eq!(call("a", "post_build").build_id, id);
        assert!(call("a", "build").phases.is_empty());
        assert!(call("b", "post_build").phases.is_empty());
    }

    #[test]
    fn a_state_of_another_build_is_never_used() {
        let (_directory, work, _) = after_build(&identity(Some("web:1"), "a"));
        assert_eq!(
            join(&work, &identity(Some("web:1"), "a"), &["post_build".to_owned()]).unwrap().phases,
            ["build"]
        );
        assert!(
            join(&work, &identity(Some("web:2"), "a"), &["post_build".to_owned()]).unwrap().phases.is_empty()
        );
        assert!(join(&work, &identity(None, "a"), &["post_build".to_owned()]).unwrap().phases.is_empty());
    }

    #[test]
    fn pipelines_of_one_directory_keep_apart() {
        let (_directory, work, id) = after_build(&identity(None, "a"));
        let other = Identity { pipeline: "other.yml".to_owned(), ..identity(None, "a") };
        let state = join(&work, &other, &["post_build".to_owned()]).unwrap();
        assert!(state.phases.is_empty());
        state.save(&work, Map::new()).unwrap();
        assert_eq!(join(&work, &identity(None, "a"), &["post_build".to_owned()]).unwrap().build_id, id);
    }

    #[test]
    fn an_unreadable_state_is_never_continued() {
        let directory = tempfile::tempdir().unwrap();
        let work = Directory::open(directory.path()).unwrap();
        work.write_whole(FILE, b"{ half", Readers::Owner).unwrap();
        assert!(join(&work, &identity(None, "a"), &["build".to_owned()]).is_err());
        let whole = Identity { continues: false, ..identity(None, "a") };
        assert!(join(&work, &whole, &["build".to_owned()]).unwrap().phases.is_empty());
    }

    #[test]
    fn results_of_steps_are_kept_beside_the_state() {
        let (_directory, work, _) = after_build(&identity(None, "a"));
        let (state, _) = State::join(&work, &identity(None, "a"), &["post_build".to_owned()]).unwrap();
        let results: Map<String, Value> =
            [("images".to_owned(), serde_json::json!({ "app": 1 }))].into_iter().collect();
        state.save(&work, results.clone()).unwrap();
        let (state, found) = State::join(&work, &identity(None, "a"), &["post_build".to_owned()]).unwrap();
        assert_eq!((state.calls, found), (3, results));
    }
}
