//! Ids of events' subjects: paths from the pipeline file, so that a step has the same id in every run, log and report.

use std::fmt;
use std::sync::Arc;

/// The id of an event's subject, with the id of the subject that contains it.
///
/// `run` contains `call.1` and the phases (`build`); a phase contains its steps (`build.2`, in `finally` `build.f1`); a
/// parallel group contains its members (`build.3/2`); a step contains its attempts (`build.2#1`); an attempt contains
/// images, pushes and services (`build.2#1/app`), and those contain vertices and test cases (`build.2#1/app/v7`).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Id {
    path: Arc<str>,
    parent: Option<Arc<str>>,
}

impl Id {
    /// The whole build.
    pub(crate) fn run() -> Self {
        Self { path: "run".into(), parent: None }
    }

    /// One call of runner.
    pub(crate) fn call(number: u32) -> Self {
        Self { path: format!("call.{number}").into(), parent: Some(Self::run().path) }
    }

    pub(crate) fn phase(name: &str) -> Self {
        Self { path: name.into(), parent: Some(Self::run().path) }
    }

    /// A step of a phase. Steps are counted from 1, and those of `finally` separately.
    pub(crate) fn step(&self, number: usize, finally: bool) -> Self {
        let mark = if finally { "f" } else { "" };
        self.below(format!("{}.{mark}{number}", self.path))
    }

    /// A member of a parallel group, counted from 1.
    pub(crate) fn member(&self, number: usize) -> Self {
        self.below(format!("{}/{number}", self.path))
    }

    /// An attempt of a step, counted from 1.
    pub(crate) fn attempt(&self, number: u32) -> Self {
        self.below(format!("{}#{number}", self.path))
    }

    /// Something inside an attempt. The name may come from outside, so it cannot add levels to the path.
    pub(crate) fn inner(&self, name: &str) -> Self {
        let name: String =
            name.chars().map(|c| if c.is_control() || "/#".contains(c) { '_' } else { c }).collect();
        self.below(format!("{}/{name}", self.path))
    }

    fn below(&self, path: String) -> Self {
        Self { path: path.into(), parent: Some(self.path.clone()) }
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.path
    }

    /// The id of the subject that contains this one. The run has none.
    pub(crate) fn parent(&self) -> Option<&str> {
        self.parent.as_deref()
    }

    /// The id of the step that this belongs to, without the attempt and anything below.
    pub(crate) fn of_step(&self) -> &str {
        self.path.split('#').next().unwrap_or_default()
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_paths_with_parents() {
        let step = Id::phase("build").step(3, false);
        let attempt = step.member(2).attempt(1);
        let vertex = attempt.inner("app").inner("v7");
        assert_eq!((vertex.as_str(), vertex.parent()), ("build.3/2#1/app/v7", Some("build.3/2#1/app")));
        assert_eq!(vertex.of_step(), "build.3/2");
        assert_eq!(Id::phase("build").step(1, true).as_str(), "build.f1");
        assert_eq!(Id::call(2).parent(), Some("run"));
        assert_eq!(attempt.inner("a/b#c\u{1b}").as_str(), "build.3/2#1/a_b_c_");
    }
}
