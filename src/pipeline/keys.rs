//! The keys of the language, table by table: what may be written where, and which of it this version carries out.
//!
//! One list serves the decoder, its suggestions and (later) the schema, so that they cannot disagree.

/// The keys that one kind of mapping may have.
#[derive(Debug)]
pub(super) struct Table {
    /// What the mapping is, with its article, for messages.
    pub(super) what: &'static str,
    /// Keys that work.
    pub(super) ready: &'static [&'static str],
    /// Keys of the language whose executor does not exist yet: refused by name.
    pub(super) later: &'static [&'static str],
}

pub(super) const PIPELINE: Table = Table {
    what: "a pipeline",
    ready: &["version", "name", "env", "images", "phases", "notify"],
    later: &["aws", "timeout"],
};

pub(super) const ENV: Table = Table {
    what: "`env`",
    ready: &["shell", "variables", "parameter-store", "secrets-manager"],
    later: &["exported-variables"],
};

pub(super) const IMAGE: Table = Table {
    what: "an image",
    ready: &[
        "repository",
        "context",
        "dockerfile",
        "target",
        "args",
        "labels",
        "secrets",
        "tags",
        "cache",
        "create",
    ],
    later: &[
        "ssh",
        "contexts",
        "network",
        "extra-hosts",
        "platforms",
        "depends-on",
        "compression",
        "scan",
        "skip-unchanged",
    ],
};

pub(super) const CACHE: Table = Table { what: "`cache`", ready: &["from", "to"], later: &[] };

pub(super) const PHASES: Table =
    Table { what: "`phases`", ready: &["install", "pre_build", "build", "post_build"], later: &[] };

pub(super) const PHASE: Table =
    Table { what: "a phase", ready: &["steps", "finally", "when"], later: &["timeout"] };

/// Keys that every step may have beside its kind.
pub(super) const STEP: Table = Table {
    what: "a step",
    ready: &["name", "when", "env", "dir"],
    later: &["only", "except", "retry", "timeout", "aws"],
};

/// The kinds of step.
pub(super) const KINDS: Table = Table {
    what: "a step",
    ready: &["run", "build", "test", "push", "image-definitions", "task-definition", "deploy"],
    later: &["run-task", "parallel"],
};

/// Keys beside `test`.
pub(super) const TEST: Table = Table {
    what: "a test step",
    ready: &["command", "entrypoint", "secrets", "user", "workdir"],
    later: &["memory", "volumes", "services", "copy-out", "reports"],
};

pub(super) const TASK_DEFINITION: Table = Table {
    what: "`task-definition`",
    ready: &["family", "file", "service", "containers"],
    later: &["task-role", "execution-role", "cpu", "memory", "tags", "force"],
};

pub(super) const BASE_SERVICE: Table = Table { what: "`service`", ready: &["cluster", "name"], later: &[] };

pub(super) const CONTAINER: Table = Table {
    what: "a container",
    ready: &["image", "environment"],
    later: &["replace-environment", "secrets", "command", "cpu", "memory", "log-options", "labels"],
};

pub(super) const DEPLOY: Table = Table {
    what: "`deploy`",
    ready: &["cluster", "service", "services", "task-definition"],
    later: &["wait", "on-failure", "keep-revisions", "code-deploy", "force"],
};

pub(super) const NOTIFY: Table =
    Table { what: "a notification", ready: &["slack", "webhook", "on"], later: &["sns", "only"] };

pub(super) const WEBHOOK: Table = Table { what: "`webhook`", ready: &["url", "headers"], later: &["secret"] };
