//! What a container used, as its cgroup counted it.

use crate::stand::Stand;

#[tokio::test]
async fn memory_and_time_are_measured() {
    let Some(stand) = Stand::new().await else { return };
    // A line of 24 MiB that has to be held whole, and then some counting.
    let script = "head -c 25165824 /dev/zero | tr '\\0' x | tail -n 1 | wc -c; i=0
         while [ $i -lt 100000 ]; do i=$((i+1)); done";
    let ended = stand.run(&stand.shell(script).await).await;
    assert_eq!((ended.exit.code, ended.stdout.as_str()), (0, "25165824\n"), "{ended:?}");
    let usage = ended.exit.usage.expect("its cgroup was there");
    let peak = usage.peak_memory_bytes.expect("version 1 counts it, and version 2 since Linux 5.19");
    assert!((24 << 20..=64 << 20).contains(&peak), "{usage:?}");
    assert!(usage.cpu_micros > 10_000, "{usage:?}");
    let parts = usage.user_cpu_micros + usage.system_cpu_micros;
    // The parts are sampled by ticks on some kernels, the whole never is.
    assert!(parts <= usage.cpu_micros + 1_000_000, "{usage:?}");
}
