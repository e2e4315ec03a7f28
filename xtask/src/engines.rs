//! Real servers: the cases of the conformance suite, the adapter's own tests and the demo on each, where its variable says where it is. What has no server is not tested, and
//! the closing table says so.

use anyhow::Result;

use crate::process;
use crate::sh::Cmd;
use crate::tally::Tally;
use crate::workspace::Workspace;

/// A product that the suite runs on.
struct Server {
    name: &'static str,
    /// Of its run of the demo.
    id: &'static str,
    /// Its files in `crates/conformance/tests` and in its adapter's.
    tests: &'static [&'static str],
    /// Where it is, as a URL of the engine.
    variable: &'static str,
}

const SERVERS: [Server; 2] = [
    Server {
        name: "Kafka",
        id: "kafka",
        tests: &["kafka"],
        variable: "POSTRIDER_TEST_KAFKA_URL",
    },
    Server {
        name: "RabbitMQ",
        id: "rabbitmq",
        tests: &["rabbitmq", "rabbitmq_live"],
        variable: "POSTRIDER_TEST_RABBITMQ_URL",
    },
];

impl Server {
    fn url(&self) -> Option<String> {
        std::env::var(self.variable)
            .ok()
            .filter(|url| !url.is_empty())
    }
}

/// The same command without the servers: what needs one is this task's.
pub(crate) fn without(cmd: Cmd) -> Cmd {
    SERVERS
        .iter()
        .fold(cmd, |cmd, server| cmd.env(server.variable, ""))
}

/// A line for each server that is not there.
pub(crate) fn untested() -> Vec<String> {
    let absent = SERVERS.iter().filter(|server| server.url().is_none());
    let line = |Server { name, variable, .. }: &Server| {
        format!("NOT TESTED on {name}: {variable} is not set")
    };
    absent.map(line).collect()
}

pub(crate) fn run(workspace: &Workspace) -> Result<Tally> {
    untested().iter().for_each(|line| println!("{line}"));
    let mut tally = Tally::default();
    for server in &SERVERS {
        let Some(url) = server.url() else { continue };
        // As the step of all tests builds them, so that nothing is built twice.
        let tests = server.tests.iter().flat_map(|test| ["--test", test]);
        let tests = Cmd::cargo("test --workspace --all-features")
            .args(tests)
            .args(["--", "--nocapture", "--test-threads", "2"]);
        println!("$ {tests}");
        let here = tests.dir(&workspace.root);
        let ended = here.show(|line| tally += Tally::of_line(line).unwrap_or_default());
        if let Err(error) = ended {
            println!("{error:#}");
            tally.failed = tally.failed.max(1);
        }
        tally += process::on_engine(workspace, server.id, &url)?;
    }
    Ok(tally)
}
