//! Puts the BPF object that `cargo xtask build-ebpf` made into the binary; without one the binary still builds, and says so when asked to run.
//! Makes the types and traits of the protocols: between agents and coordinator, and of KEDA.

use std::{env, fs, path::PathBuf};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-env-changed=WEIR_BPF_OBJECT");
    let out = PathBuf::from(env::var("OUT_DIR")?).join("weir-bpf.o");
    let manifest = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let object =
        env::var_os("WEIR_BPF_OBJECT").map_or_else(|| manifest.join("../target/bpf/weir-bpf.o"), PathBuf::from);
    println!("cargo::rerun-if-changed={}", object.display());
    if object.exists() {
        fs::copy(&object, &out)?;
    } else {
        fs::write(&out, [])?;
    }
    println!("cargo::rerun-if-changed=proto");
    let protocol = protox::compile(["proto/weir.proto", "proto/externalscaler.proto"], ["proto"])?;
    tonic_prost_build::configure().compile_fds(protocol)?;
    Ok(())
}
