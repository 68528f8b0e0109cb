//! Passes the layout of the release binary to the linker. Debug builds are linked often and never measured, so they get none.

fn main() {
    let layout = format!("{}/.cargo/layout.ld", env!("CARGO_MANIFEST_DIR"));
    println!("cargo::rerun-if-changed={layout}");
    if std::env::var("PROFILE").is_ok_and(|profile| profile == "release") {
        println!("cargo::rustc-link-arg-bin=runner=-Wl,-T,{layout}");
    }
}
