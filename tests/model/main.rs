//! A plain model of flows and counters beside the loaded programs, on random packets. Needs root.

#[path = "../support/testrun.rs"]
mod testrun;

/// What is no frontend's passes every program untouched.
#[test]
fn strangers_pass() {
    let done = testrun::on_a_node(testrun::options(), |node| {
        let mut frame = vec![0u8; 60];
        frame[12] = 8;
        for (ran, pass) in [
            (node.programs.ingress(&frame, testrun::Buffer::of(node.uplink))?, testrun::TC_NEXT),
            (node.programs.egress(&frame, testrun::Buffer::of(node.pod))?, testrun::TC_NEXT),
            (node.programs.xdp(&frame, node.uplink)?, testrun::XDP_PASS),
        ] {
            assert_eq!(ran, testrun::Ran { action: pass, frame: frame.clone() });
        }
        Ok(())
    });
    done.unwrap();
}
