//! The tests' stand-in for Amazon ECS as a program, for `./dev demo` and `./dev bench ecs`.
//!
//! It needs the test bed (`RUNNER_TEST_AWS`), where the services exist already. It prints its address and serves until it is
//! killed. `GET /calls` returns the action and the seconds of every request.
#![allow(
    unreachable_pub,
    unused_imports,
    dead_code,
    reason = "the modules are those of the tests, which use all of them"
)]

#[path = "../aws_calls.rs"]
mod aws_calls;
#[path = "../bed.rs"]
mod bed;
#[path = "mod.rs"]
mod ecs_api;
#[path = "../recorded_aws.rs"]
mod recorded_aws;

use ecs_api::{Scenario, Script, Service};

const USAGE: &str = "usage: ecs-api SECONDS CLUSTER/SERVICE...   (SECONDS: how long a deployment takes)";

fn main() {
    let mut arguments = std::env::args().skip(1);
    let seconds: f64 = arguments.next().and_then(|text| text.parse().ok()).expect(USAGE);
    let services: Vec<Service> = arguments
        .map(|name| {
            let (cluster, name) = name.split_once('/').expect(USAGE);
            let service = Service::at_bed(cluster, name);
            let rollout = Script::rollout(seconds, service.desired);
            service.deploys(rollout)
        })
        .collect();
    // The bed's API works on several requests at a time, so its response times stay as they are.
    let api = Scenario::new(services).threaded(8);
    println!("{}", api.endpoint);
    loop {
        std::thread::park();
    }
}
