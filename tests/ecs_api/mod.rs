//! A stand-in for Amazon ECS that follows a script, because the bed's deployments never progress.
//!
//! It plays services, service deployments and revisions, tasks and the logs of containers. All other calls go to the bed's
//! API, which also has the task definitions:
//!
//! ```ignore
//! let service = Service::fresh().fargate().desired(2).deploys([
//!     steps::pending(),
//!     steps::progress(0, 2),
//!     steps::fail_task(TaskOutcome::exited("web", 1)),
//!     steps::rolling_back("the circuit breaker's words"),
//!     steps::rolled_back("the circuit breaker's words"),
//! ]);
//! let ecs = Scenario::new([service]).fault(Fault::throttled("ecs:DescribeServices").at([2])).start();
//! project.runner("run --publish").on(&ecs).run().exits(5);
//! assert_eq!(ecs.count("ecs:UpdateService"), 1);
//! assert_eq!(ecs.calls("ecs:UpdateService")[0]["forceNewDeployment"], true);
//! ```

mod answers;
#[cfg(test)]
mod checks;
mod script;
mod state;
mod tasks;

pub use script::{Fault, OneOff, Script, Service, Step, TaskOutcome, revision, steps};

use crate::recorded_aws::{Answer, AwsCall, RecordedAws};
use script::Kind;
use serde_json::{Value, json};
use state::State;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

type More = Box<dyn FnMut(&str, &str) -> Option<(u16, String)> + Send>;

/// The services, tasks and faults to play.
pub struct Scenario {
    services: Vec<Service>,
    one_offs: Vec<OneOff>,
    faults: Vec<Fault>,
    more: Option<More>,
}

impl Scenario {
    pub fn new(services: impl Into<Vec<Service>>) -> Self {
        Self { services: services.into(), one_offs: Vec::new(), faults: Vec::new(), more: None }
    }

    /// The script of the next task that `RunTask` starts. The last one is repeated; without any, tasks start and exit with 0.
    pub fn runs(mut self, task: OneOff) -> Self {
        self.one_offs.push(task);
        self
    }

    pub fn fault(mut self, fault: Fault) -> Self {
        self.faults.push(fault);
        self
    }

    /// Responses to more calls (action and body): of other AWS services, or instead of the stand-in's own.
    pub fn also(mut self, answer: impl FnMut(&str, &str) -> Option<(u16, String)> + Send + 'static) -> Self {
        self.more = Some(Box::new(answer));
        self
    }

    pub fn start(self) -> EcsApi {
        self.threaded(1)
    }

    /// The same with so many requests at a time.
    pub fn threaded(self, threads: usize) -> EcsApi {
        let state = State::new(self.services, self.one_offs);
        let stage =
            Stage { state, asked: Vec::new(), said: BTreeMap::new(), faults: self.faults, more: self.more };
        let stage = Arc::new(Mutex::new(stage));
        let own = stage.clone();
        let aws = RecordedAws::threaded(threads, move |calls, body| own.lock().unwrap().answer(calls, body));
        EcsApi { endpoint: aws.endpoint.clone(), aws, stage }
    }
}

/// The stand-in; it ends when dropped.
pub struct EcsApi {
    /// For `AWS_ENDPOINT_URL`.
    pub endpoint: String,
    /// The recorded calls.
    pub aws: RecordedAws,
    stage: Arc<Mutex<Stage>>,
}

impl EcsApi {
    /// One service without faults.
    pub fn of(service: Service) -> Self {
        Scenario::new([service]).start()
    }

    /// How often an action was called, in IAM's spelling: `ecs:UpdateService`.
    pub fn count(&self, action: &str) -> usize {
        self.calls(action).len()
    }

    /// The bodies of an action's calls, in order: JSON, or text if it is not JSON.
    pub fn calls(&self, action: &str) -> Vec<Value> {
        let stage = self.stage.lock().unwrap();
        stage.asked.iter().filter(|(own, _)| own == action).map(|(_, body)| body.clone()).collect()
    }

    /// All actions that were called, in order.
    pub fn actions(&self) -> Vec<String> {
        self.stage.lock().unwrap().asked.iter().map(|(action, _)| action.clone()).collect()
    }

    /// The ARN of the revision that a service runs or is deploying.
    pub fn runs(&self, service: &str) -> String {
        self.look(service, |playing| playing.service.definition.clone())
    }

    /// The states of a service's deployments, oldest first. The first one existed at the start.
    pub fn statuses(&self, service: &str) -> Vec<String> {
        self.look(service, |playing| playing.deployments.iter().map(|it| it.status.clone()).collect())
    }

    /// The ARNs of the tasks with this last status.
    pub fn tasks(&self, status: &str) -> Vec<String> {
        let stage = self.stage.lock().unwrap();
        stage.state.tasks.iter().filter(|task| task.status == status).map(|task| task.arn.clone()).collect()
    }

    /// Another client deploys a revision now.
    pub fn deploy(&self, service: &str, definition: &str) {
        let mut stage = self.stage.lock().unwrap();
        let at = stage.state.services.iter().position(|playing| playing.service.name == service).unwrap();
        stage.state.deploy(at, definition);
    }

    fn look<T>(&self, service: &str, see: impl Fn(&state::Playing) -> T) -> T {
        let stage = self.stage.lock().unwrap();
        see(stage.state.services.iter().find(|playing| playing.service.name == service).unwrap())
    }
}

/// The state behind all calls.
struct Stage {
    state: State,
    asked: Vec<(String, Value)>,
    /// The last response to each call, by its action and body.
    said: BTreeMap<(String, String), String>,
    faults: Vec<Fault>,
    more: Option<More>,
}

impl Stage {
    fn answer(&mut self, calls: &[AwsCall], body: &str) -> Answer {
        let action = &calls[0].action;
        let json = serde_json::from_str(body).unwrap_or_else(|_| Value::from(body));
        self.asked.push((action.clone(), json.clone()));
        let number = self.asked.iter().filter(|(own, _)| own == action).count();
        let fault = self.faults.iter().find(|fault| fault.strikes(action, number)).map(|fault| fault.kind);
        let lost = || json!({ "__type": "ServerException", "message": "Service Unavailable. Please try again later." });
        let error = |code: &str| json!({ "__type": code, "message": "Not now." }).to_string();
        match fault {
            Some(Kind::Throttled) => Answer::Said(
                400,
                json!({ "__type": "ThrottlingException", "message": "Rate exceeded" }).to_string(),
            ),
            Some(Kind::ServerError) => Answer::Said(500, lost().to_string()),
            Some(Kind::Denied) => Answer::Denied(calls[0].clone()),
            Some(Kind::Error(status, code)) => Answer::Said(status, error(code)),
            Some(Kind::LostTo(status, code)) => match self.play(action, body, &json) {
                Answer::Forwarded => Answer::Instead(status, error(code)),
                _ => Answer::Said(status, error(code)),
            },
            Some(Kind::Garbage) => Answer::Said(200, "{\"services\": [{\"serviceName\": ".to_owned()),
            Some(Kind::Lost) => match self.play(action, body, &json) {
                Answer::Forwarded => Answer::Instead(500, lost().to_string()),
                _ => Answer::Said(500, lost().to_string()),
            },
            Some(Kind::Stale) => match self.said.get(&(action.clone(), body.to_owned())) {
                Some(said) => Answer::Said(200, said.clone()),
                None => self.play(action, body, &json),
            },
            None => self.play(action, body, &json),
        }
    }

    fn play(&mut self, action: &str, body: &str, json: &Value) -> Answer {
        if let Some((status, text)) = self.more.as_mut().and_then(|more| more(action, body)) {
            return Answer::Said(status, text);
        }
        match self.state.answer(action, json) {
            None => Answer::Forwarded,
            Some(Ok(answer)) => {
                let text = answer.to_string();
                self.said.insert((action.to_owned(), body.to_owned()), text.clone());
                Answer::Said(200, text)
            }
            Some(Err((status, text))) => Answer::Said(status, text),
        }
    }
}
