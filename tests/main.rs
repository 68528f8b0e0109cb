//! Black-box tests of the binary `runner`, one file a feature. They need the test bed: `./dev test`.
#![allow(unreachable_pub, reason = "no other crate uses these tests")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot continue has failed, and a panic names the place"
)]

mod after_deploy;
mod architecture;
mod attacks;
mod aws_attempts;
mod aws_calls;
mod bed;
mod build;
mod builds_of_several_images;
mod code_deploy;
mod code_pipeline;
mod codebuild;
mod commands;
mod context;
mod deployments;
mod deployments_in_doubt;
mod deployments_with_failing_calls;
mod dirty;
mod docker;
mod doctor;
mod ecs;
mod ecs_api;
mod ecs_commands;
mod environment;
mod event_summary;
mod events;
mod exhausted;
mod failing_builds;
mod failures;
mod faults;
mod golden;
mod handing_on;
mod hanging;
mod harness;
mod hostile_text;
mod hostile_work;
mod image_tests;
mod json_output;
mod language;
mod limits;
mod masking;
mod notifications;
mod parallel;
mod planning;
mod policy;
mod processes;
mod proxy;
mod publish;
mod push;
mod recorded_aws;
mod refused_builds;
mod registries;
mod run_task;
mod scan;
mod scratch;
mod scripted_registry;
mod servers;
mod services;
mod signals;
mod state;
mod task_definitions;
mod torture;
mod unchanged;
mod validate;
mod verification;
