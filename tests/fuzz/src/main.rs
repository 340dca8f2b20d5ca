//! Runs one target: by libFuzzer in the build of `.ci/fuzz`, otherwise on the input from stdin.

#![cfg_attr(fuzzing, no_main)]

// The environment names the target, because all arguments are libFuzzer's.
#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    static TARGET: std::sync::LazyLock<mx_job_webhook_fuzz::Target> =
        std::sync::LazyLock::new(|| {
            let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
            mx_job_webhook_fuzz::target(&name).expect("FUZZ_TARGET names a target")
        });
    TARGET(input);
});

#[cfg(not(fuzzing))]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let name = std::env::args().nth(1).unwrap_or_default();
    let target = mx_job_webhook_fuzz::target(&name).ok_or("the argument names no target")?;
    let mut input = Vec::new();
    std::io::Read::read_to_end(&mut std::io::stdin(), &mut input)?;
    target(&input);
    Ok(())
}
