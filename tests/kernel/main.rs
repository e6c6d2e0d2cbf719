//! The loaded programs, run by the kernel on single packets (BPF_PROG_TEST_RUN). Needs root.

#[test]
fn loads() {
    let options = lb_agent::dataplane::bpf::Options {
        pin_path: "/sys/fs/bpf/weir-test-load".into(),
        flow_table_size: 4096,
        sizes: lb_agent::dataplane::bpf::Sizes::default(),
        snat_ports: (61000, 65535),
        tcp_idle: 8000,
        bpf_log: false,
        flow_seed: 1,
        test_clock: true,
    };
    match lb_agent::dataplane::bpf::Bpf::start(&options) {
        Ok(mut b) => {
            use lb_agent::dataplane::Dataplane;
            println!("{:?}", b.sweep());
            for (n, p) in b.programs_mut().programs() {
                println!("{n} {:?}", p.info().map(|i| i.verified_instruction_count()));
            }
            drop(b);
            println!("{:?}", lb_agent::dataplane::attach::detach(&options.pin_path));
        }
        Err(e) => {
            let mut s: Option<&dyn std::error::Error> = Some(&e);
            while let Some(x) = s {
                let t = x.to_string();
                println!("{}", &t[t.len().saturating_sub(1500)..]);
                if t.len() > 5000 {
                    std::fs::write("/tmp/verifier.log", &t).unwrap();
                }
                s = x.source();
            }
            panic!()
        }
    }
}
