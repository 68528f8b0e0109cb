//! `runner` takes the place of shell in AWS CodeBuild buildspecs.
pub mod aws;
pub mod cli;
pub mod docker;
pub mod ecs;
pub mod engine;
pub mod event;
pub mod exit;
pub mod files;
pub mod origin;
pub mod pipeline;
pub mod plan;
pub mod process;
pub mod registry;
pub mod report;
pub mod secret;
pub mod text;
pub mod tls;
