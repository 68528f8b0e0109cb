//! `runner` takes the place of shell in AWS CodeBuild buildspecs.
pub(crate) mod address;
pub(crate) mod aws;
mod cli;
pub(crate) mod connections;
pub(crate) mod deployment;
pub(crate) mod docker;
pub(crate) mod document;
pub(crate) mod duration;
pub(crate) mod ecs;
pub(crate) mod engine;
pub(crate) mod event;
pub(crate) mod exit;
pub(crate) mod files;
pub(crate) mod language;
pub(crate) mod origin;
pub(crate) mod plan;
pub(crate) mod process;
pub(crate) mod registry;
pub(crate) mod report;
pub(crate) mod run;
pub(crate) mod secret;
pub(crate) mod step;
pub(crate) mod style;
pub(crate) mod text;
pub(crate) mod tls;
pub(crate) mod work;

pub use cli::main;
