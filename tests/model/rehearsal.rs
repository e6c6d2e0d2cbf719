//! The model beside the pipeline in memory: as many operations as a kernel could not run in that time, and what becomes of a failure.

use std::sync::atomic::Ordering;

use lb_agent::dataplane::Write;

use crate::{
    campaign::{Campaign, LIST, replay},
    cases,
    errors::IcmpError,
    frames::{ACK, Part, Shape},
    memory::{self, InMemory},
    operations::{self, Operation},
    subject::Work,
    table::verify,
    traffic, world,
};

const OPERATIONS: u64 = 2_000_000;
const ATTEMPTS: usize = 300;

#[test]
fn the_pipeline_in_memory_does_as_the_model() {
    let campaign = Campaign::new(memory::stage, 1);
    let failure = campaign.run(&|lists| lists * (LIST as u64) < OPERATIONS).expect("memory");
    if let Some(failure) = failure {
        panic!("{}", failure.report(memory::stage, ATTEMPTS, None).expect("memory"));
    }
    assert!(campaign.done.load(Ordering::Relaxed) >= OPERATIONS);
    assert!(campaign.missing().is_empty(), "never met: {:?}", campaign.missing());
}

#[test]
fn no_case_that_was_kept_fails_again() {
    let cases = cases::all(&cases::folder()).expect("cases");
    assert!(!cases.is_empty());
    for (name, operations) in cases {
        let wrong = replay(memory::stage, &operations).expect("memory");
        assert!(wrong.is_none(), "{name}: {wrong:?}");
    }
}

/// It never hears that a backend is gone.
fn forgetful(work: &mut Work<'_>) -> anyhow::Result<()> {
    work(&mut InMemory::losing(|write| matches!(write, Write::PutBackend(_, backend) if backend.is_gone())))
}

#[test]
fn a_disagreement_is_made_short_and_kept_and_comes_again() {
    let failure = Campaign::new(forgetful, 1).run(&|lists| lists < 1).expect("memory").expect("a disagreement");
    assert!(failure.operations.len() > 20, "{} operations say nothing about shortening", failure.operations.len());
    let (short, error) = failure.shortened(forgetful, ATTEMPTS).expect("memory").expect("it fails again");
    // Somebody opens a flow, its backend goes, and the next packet of the flow tells.
    assert!(short.len() <= 4, "{short:?}");
    assert!(short.iter().any(|operation| matches!(operation, Operation::Backing { unlisted: true, .. })), "{short:?}");
    let folder = tempfile::tempdir().expect("a folder");
    let path = cases::keep(folder.path(), "found", &format!("{error:#}"), &short).expect("a file");
    assert_eq!(path, folder.path().join("found.case"));
    let kept = cases::all(folder.path()).expect("cases");
    assert_eq!(kept, [("found".to_owned(), short.clone())]);
    assert!(replay(forgetful, &kept[0].1).expect("memory").is_some(), "the case shows what is wrong");
    assert!(replay(memory::stage, &short).expect("memory").is_none(), "and nothing where that is not wrong");
    let report = failure.report(forgetful, ATTEMPTS, Some(folder.path())).expect("memory");
    assert!(report.contains("operations are enough") && report.contains("seed-1.case"), "{report}");
}

#[test]
fn operations_are_read_as_they_are_written() {
    let written = operations::random(1, 5000, 1);
    assert!(written.contains(&Operation::Restart));
    let text = cases::text("two\nlines", &written).expect("a text");
    assert_eq!(cases::parse(&text).expect("operations"), written);
    let error = cases::parse("# a comment\n\n\"sweep\"\n{\"wait\":-1}\n").expect_err("no number of seconds");
    assert!(format!("{error:#}").starts_with("line 4: "), "{error:#}");
}

#[test]
fn frames_of_every_shape_are_in_order() {
    for frontend in 0..world::FRONTENDS {
        let (from, to) = (world::vip(frontend).socket(), world::client(0, 0, frontend));
        let error = IcmpError { src: to.ip(), dst: from.ip(), from, to, tcp: true, ttl: 64 };
        verify::checksums(&error.frame()).unwrap_or_else(|wrong| panic!("{error:?}: {wrong}"));
        for options in [false, true] {
            for part in [Part::Whole, Part::First(5), Part::Later(5)] {
                let packet = traffic::of_client((0, 0, frontend), ACK, 40, Shape { options, part });
                let frame = packet.frame();
                verify::checksums(&frame).unwrap_or_else(|wrong| panic!("{packet:?}: {wrong}"));
                assert!(part == Part::Whole || packet.id_in(&frame) == Some(5), "{packet:?}");
            }
        }
    }
}
