//! The whole log, by seed, and cut at every operation.

use crate::harness::rng::Rng;
use crate::harness::{Op, fields, run};
use crate::log::{LogSimulation, What, World};

/// 02 §4.4, 2: 10,000 seeds in CI.
#[test]
fn acceptance_02_the_log_keeps_its_promises_through_random_crashes() {
    let counts = run::<LogSimulation>();
    println!(
        r#"proof: {{"name":"log_simulation","what":"the whole log against a model, on a disk and clocks that fail"{}}}"#,
        fields(&counts)
    );
    if counts.get("seeds") >= Some(&500) {
        let happens = [
            "power cuts",
            "kills",
            "power cuts while opening",
            "full disks",
            "refused for space",
            "clock jumps",
            "flipped bits",
            "flips refused at opening",
            "slow writes",
            "planned failures",
            "confirmed",
        ];
        for what in happens {
            assert!(counts.get(what) > Some(&0), "never: {what}");
        }
    }
}

/// One story, cut at each single operation of the disk.
#[test]
fn a_power_cut_at_every_operation_of_the_disk_keeps_the_promises() {
    let rng = &mut Rng(7);
    let round = [
        What::Commit,
        What::Lease,
        What::Step,
        What::Operate,
        What::PassTime,
    ];
    let story: Vec<Op<What>> = (0..40)
        .flat_map(|_| round.map(|what| Op::new(what, rng)))
        .collect();
    let mut whole = World::new(7);
    let from = whole.disk.operations();
    story.iter().for_each(|op| whole.act(*op));
    let operations = whole.disk.operations();
    assert!(
        operations > from + 50,
        "the story does something: {operations}"
    );
    for operation in from + 1..=operations {
        let mut world = World::new(7);
        world.disk.power_off_at(operation);
        story.iter().for_each(|op| world.act(*op));
        assert!(world.broken, "operation {operation} was not reached");
        world.act(Op {
            what: What::Restart,
            seed: operation,
        });
        world.drain();
    }
    println!(
        r#"proof: {{"name":"log_cut_everywhere","what":"the power cut at every operation of one story of the whole log","cuts":{}}}"#,
        operations - from
    );
}
