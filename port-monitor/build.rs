//! Embeds the committed eBPF object, after checking that it was built from the
//! sources beside it: plain `cargo build` needs no BPF toolchain. It is packed, to a
//! seventh of its size.

#[path = "build/digest.rs"]
mod digest;

use std::{env, error::Error, fs, io::Write as _, path::Path};

use flate2::{Compression, write::ZlibEncoder};

const REBUILD: &str = "run `cargo xtask build-ebpf` and commit port-monitor/bpf";

fn main() -> Result<(), Box<dyn Error>> {
    let package = env::var("CARGO_MANIFEST_DIR")?;
    let workspace = Path::new(&package)
        .parent()
        .ok_or("no workspace directory")?;
    let arch = env::var("CARGO_CFG_TARGET_ARCH")?;
    let object = Path::new(&package).join(format!("bpf/port-monitor-{arch}.bpf.o"));
    let manifest = object.with_extension("manifest");
    for input in digest::INPUTS {
        println!(
            "cargo::rerun-if-changed={}",
            workspace.join(input).display()
        );
    }
    println!("cargo::rerun-if-changed={}", object.display());
    println!("cargo::rerun-if-changed={}", manifest.display());
    let stale = |what: &str| Err(format!("{}: {what}: {REBUILD}", object.display()).into());
    let Ok(bytes) = fs::read(&object) else {
        return stale(&format!("there is no eBPF object for {arch}"));
    };
    let text = fs::read_to_string(&manifest)?;
    if digest::manifest_value(&text, "object") != Some(&digest::of_bytes(&bytes)) {
        return stale("the object is not the one its manifest describes");
    }
    if digest::manifest_value(&text, "inputs") != Some(&digest::of_inputs(workspace)?) {
        return stale("the eBPF sources or Cargo.lock changed since the object was built");
    }
    let packed = Path::new(&env::var("OUT_DIR")?).join("object.zlib");
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(&bytes)?;
    fs::write(&packed, encoder.finish()?)?;
    for (name, value) in [
        ("OBJECT", object.display().to_string()),
        ("PACKED", packed.display().to_string()),
        ("BYTES", bytes.len().to_string()),
    ] {
        println!("cargo::rustc-env=PORT_MONITOR_BPF_{name}={value}");
    }
    Ok(())
}
