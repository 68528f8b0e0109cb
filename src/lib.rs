//! `runner` replaces shell in AWS CodeBuild buildspecs: it runs the phases of a typed pipeline file, builds,
//! tests and pushes images, and deploys them to Amazon ECS.
//!
//! This comment is a map of the source. `docs/architecture.md` has more, and `tests/architecture.rs` checks which
//! module may use which.
//!
//! # Data flow
//!
//! ```text
//! pipeline.yml → language → plan → run → engine → step → docker, registry, aws, process
//!                                           │       ├──→ deployment
//!                                           │       └──→ connections
//!                                           └─ events → report (console, JSON lines, notifications)
//! ```
//!
//! A file becomes a typed model, the model and the build context become a plan, the plan becomes items, and the engine
//! runs the items. Engine and steps emit events. Reports see only events.
//!
//! # Modules
//!
//! Front end:
//!
//! - `cli`: one file per command, and the session that sets up signals, runtime, masks and printer.
//! - `origin`: the build's source, from CodeBuild's variables or from git.
//!
//! Pure, without files, network, processes, environment or async:
//!
//! - `language`: trees with spans, diagnostics, schema, reference. `language/pipeline` is the pipeline language.
//! - `plan`: conditions, values, the resources that steps need, `runner plan`, the IAM policy.
//! - `ecs`: task definitions, diffs, the verdict on a deployment, the diagnosis of failed tasks.
//!
//! Run:
//!
//! - `run`: turns a planned pipeline into items for the engine, and resolves secrets.
//! - `engine`: phases, items, attempts, deadlines, `finally`, stopping, state, gc.
//! - `step`: one file per kind of step.
//! - `deployment`: verification, following, rollback and registration, for ECS and CodeDeploy.
//! - `connections`: Docker, AWS and registries with their logins; turns adapters' errors into failures.
//! - `event`: typed, masked events, and their published form `runner.events/1`.
//! - `report`: console, JSON lines, notifications.
//!
//! Adapters:
//!
//! - `process`: commands, and the guards that own their processes.
//! - `docker`, `docker_config`: the Docker Engine with its BuildKit, and Docker's configuration.
//! - `registry`: OCI distribution.
//! - `aws`: the AWS SDK, one file per service.
//!
//! Foundation:
//!
//! - `secret`: the `Secret` type, and masking.
//! - `exit`: exit codes, and `Failure`, an error with advice for the user.
//! - `address`, `document`, `duration`, `text`: names of images and ARNs, JSON and YAML passed through unchanged,
//!   durations, words.
//! - `files`, `work`: atomic writes, and `.runner/`.
//! - `limits`: the limits of the system on this process.
//! - `http`, `proxy`, `tls`, `backoff`, `random`, `style`: HTTP clients, proxies, certificate authorities, delays, random ids,
//!   terminal styles.
//!
//! # Where to start
//!
//! `cli/run.rs` shows `runner run` from arguments to exit code: `run/mod.rs` prepares a run, `engine/run.rs` runs it,
//! and `step/mod.rs` lists the kinds of steps. A new key of the language starts in `language/pipeline/tables.rs`.
mod address;
mod aws;
mod backoff;
mod cli;
mod connections;
mod deployment;
mod docker;
mod docker_config;
mod document;
mod duration;
mod ecs;
mod engine;
mod event;
mod exit;
mod files;
mod http;
mod language;
mod limits;
mod origin;
mod plan;
mod process;
mod proxy;
mod random;
mod registry;
mod report;
mod run;
mod secret;
mod step;
mod style;
mod text;
mod tls;
mod work;

pub use cli::main;
