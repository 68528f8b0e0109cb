//! `.runner/state.json`: what one call produced and the next one finds.

use crate::exit::{Exit, Failure};
use crate::files::{self, Access, WriteError};
use crate::language::pipeline::model::PhaseName;
use crate::plan::Mode;
use crate::secret::Masks;
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// The version of the file's format.
const VERSION: u32 = 1;

/// Everything that later calls of the same build need.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct State {
    version: u32,
    /// The build that it belongs to.
    pub(crate) build_id: String,
    /// The pipeline file, so that two pipelines in one directory keep apart.
    pipeline: String,
    commit: Option<String>,
    mode: Mode,
    /// The phases that have begun.
    pub(crate) phases: Vec<PhaseName>,
    /// The phase that is under way. Where a later call finds one, the process that ran it was killed.
    pub(crate) running: Option<PhaseName>,
    pub(crate) failure: Option<RecordedFailure>,
    /// Images by their name in the pipeline.
    pub(crate) images: IndexMap<String, ImageState>,
    /// Registered revisions by family: the ARN, or the family alone in local mode.
    pub(crate) task_definitions: IndexMap<String, String>,
    /// What commands have handed on through `$RUNNER_ENV`.
    #[serde(default)]
    pub(crate) variables: IndexMap<String, String>,
    /// The build has been announced as started.
    pub(crate) announced: bool,
    /// The whole pipeline has been announced as ended.
    pub(crate) ended: bool,
}

/// A failure as the state keeps it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct RecordedFailure {
    exit: u8,
    message: String,
    help: Option<String>,
}

impl RecordedFailure {
    pub(crate) fn to_failure(&self) -> Failure {
        let Self { exit, message, help } = self.clone();
        Failure { help, ..Failure::new(Exit::from_code(exit), message) }
    }
}

/// What is known of an image.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct ImageState {
    /// Its id in the engine; of several platforms, that of the engine's own or of the first.
    pub(crate) id: String,
    /// The ids of the other platforms.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub(crate) platforms: IndexMap<String, String>,
    /// The digest of its sources, where that is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) fingerprint: Option<String>,
    /// The digest of the image in the repository that has the same sources: this one has not been built.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) unchanged: Option<String>,
    /// The test steps that it has passed, by their number in the file.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) passed: Vec<usize>,
    /// The manifest's digest, once it is pushed.
    pub(crate) digest: Option<String>,
    /// `repository@sha256:…`, once it is pushed.
    pub(crate) uri: Option<String>,
}

/// What a call has in common with the calls that it may continue.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    /// CodeBuild's build id, where there is one.
    pub(crate) build_id: Option<String>,
    pub(crate) pipeline: String,
    pub(crate) commit: Option<String>,
    pub(crate) mode: Mode,
    /// The call names single phases, and so may continue what an earlier call began.
    pub(crate) continues: bool,
}

impl State {
    /// The state that this call continues, or a new one. In CodeBuild that is the state of the same build; elsewhere that of
    /// the same file, commit and mode, as long as none of this call's phases has run in it.
    pub(crate) fn join(path: &Path, identity: &Identity, phases: &[PhaseName]) -> Result<Self, Failure> {
        let mut found = match Self::read(path) {
            // Whether an earlier call has failed cannot be told, and a deployment may depend on it.
            Err(reason) if identity.continues || identity.build_id.is_some() => {
                let message = format!(
                    "{} cannot be read ({reason}), and so what earlier calls of this build did",
                    path.display()
                );
                return Err(Failure::environment(message).help("remove it to begin anew"));
            }
            found => found.ok().flatten(),
        };
        if let Some(other) = found.take_if(|state| state.pipeline != identity.pipeline) {
            // Another pipeline file of this directory: its build may go on later. Ours may have been put aside before.
            let _ = std::fs::rename(path, aside(path, &other.pipeline));
            found = Self::read(&aside(path, &identity.pipeline))
                .ok()
                .flatten()
                .filter(|state| state.pipeline == identity.pipeline);
        }
        let joined = found.filter(|state| match &identity.build_id {
            Some(build_id) => state.build_id == *build_id,
            None => {
                identity.continues
                    && state.commit == identity.commit
                    && state.mode == identity.mode
                    && state.build_id.starts_with(LOCAL)
                    && !phases.iter().any(|phase| state.phases.contains(phase))
            }
        });
        let mut state = joined.unwrap_or_else(|| Self {
            version: VERSION,
            build_id: identity.build_id.clone().unwrap_or_else(local_build_id),
            pipeline: identity.pipeline.clone(),
            commit: identity.commit.clone(),
            mode: identity.mode,
            phases: Vec::new(),
            running: None,
            failure: None,
            images: IndexMap::new(),
            task_definitions: IndexMap::new(),
            variables: IndexMap::new(),
            announced: false,
            ended: false,
        });
        if let Some(phase) = state.running.take() {
            let message = format!("the phase {phase} did not come to its end: its process was killed");
            state.failure.get_or_insert(RecordedFailure {
                exit: Exit::StepFailed.code(),
                message,
                help: None,
            });
        }
        Ok(state)
    }

    /// Nothing where there is none.
    fn read(path: &Path) -> Result<Option<Self>, String> {
        let bytes = match std::fs::read(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.to_string()),
            Ok(bytes) => bytes,
        };
        let state: Self = serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
        if state.version != VERSION {
            return Err("another version of runner wrote it".to_owned());
        }
        Ok(Some(state))
    }

    /// Notes a failure with its place (phase and step), without secrets; the first one stays.
    pub(crate) fn record(&mut self, failure: &Failure, place: Option<&str>, masks: &Masks) {
        let place = place.map(|place| format!("{place}: ")).unwrap_or_default();
        self.failure.get_or_insert_with(|| RecordedFailure {
            exit: failure.exit.code(),
            message: masks.text(&format!("{place}{}", failure.message)),
            help: failure.help.as_ref().map(|help| masks.text(help)),
        });
    }

    /// Writes the file whole, readable by its owner alone.
    pub(crate) fn save(&self, path: &Path) -> Result<(), WriteError> {
        files::write_json(path, self, Access::Owner)
    }
}

/// Where the state of a pipeline file is kept while another one of the same directory runs.
fn aside(path: &Path, pipeline: &str) -> PathBuf {
    let name = Path::new(pipeline).file_name().unwrap_or_default();
    path.with_file_name(format!("state-{}.json", name.to_string_lossy()))
}

/// How build ids begin that CodeBuild did not give.
const LOCAL: &str = "local-";

fn local_build_id() -> String {
    let now = jiff::Zoned::now();
    format!("{LOCAL}{}-{}", now.strftime("%Y%m%d-%H%M%S"), std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;
    use PhaseName::{Build, PostBuild};

    fn identity(build_id: Option<&str>, commit: &str) -> Identity {
        Identity {
            build_id: build_id.map(ToOwned::to_owned),
            pipeline: "pipeline.yml".to_owned(),
            commit: Some(commit.to_owned()),
            mode: Mode::Local,
            continues: true,
        }
    }

    fn after_build(identity: &Identity) -> (tempfile::TempDir, std::path::PathBuf, String) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.json");
        let mut state = State::join(&path, identity, &[Build]).unwrap();
        state.phases.push(Build);
        state.save(&path).unwrap();
        (directory, path, state.build_id)
    }

    #[test]
    fn a_call_joins_the_same_commit_once_for_each_phase() {
        let (_directory, path, id) = after_build(&identity(None, "a"));
        let join =
            |commit, phases: &[PhaseName]| State::join(&path, &identity(None, commit), phases).unwrap();
        assert_eq!(join("a", &[PostBuild]).build_id, id);
        assert!(join("a", &[Build]).phases.is_empty());
        assert!(join("b", &[PostBuild]).phases.is_empty());
    }

    #[test]
    fn a_state_of_another_build_is_never_used() {
        let (_directory, path, _) = after_build(&identity(Some("web:1"), "a"));
        assert_eq!(State::join(&path, &identity(Some("web:1"), "a"), &[PostBuild]).unwrap().phases, [Build]);
        assert!(State::join(&path, &identity(Some("web:2"), "a"), &[PostBuild]).unwrap().phases.is_empty());
        assert!(State::join(&path, &identity(None, "a"), &[PostBuild]).unwrap().phases.is_empty());
    }

    #[test]
    fn pipelines_of_one_directory_keep_apart() {
        let (_directory, path, id) = after_build(&identity(None, "a"));
        let other = Identity { pipeline: "other.yml".to_owned(), ..identity(None, "a") };
        let state = State::join(&path, &other, &[PostBuild]).unwrap();
        assert!(state.phases.is_empty());
        state.save(&path).unwrap();
        assert_eq!(State::join(&path, &identity(None, "a"), &[PostBuild]).unwrap().build_id, id);
    }

    #[test]
    fn an_unreadable_state_is_continued_by_nobody() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.json");
        std::fs::write(&path, "{ half").unwrap();
        assert!(State::join(&path, &identity(None, "a"), &[Build]).is_err());
        let whole = Identity { continues: false, ..identity(None, "a") };
        assert!(State::join(&path, &whole, &[Build]).unwrap().phases.is_empty());
    }
}
