//! The same tests where cgroup version 2 is all there is: in a guest, by this very program. Those run there
//! that meet cgroups, and one of each kind besides; everything takes several times as long as outside.

use teamster_integration::guest::Guest;

#[test]
fn on_cgroup_version_two_alone() {
    let Some(guest) = Guest::prepare() else { return };
    guest.run_own_tests(
        &[
            "usage::",
            "sandbox::memory_is_limited",
            "sandbox::limits_are_exact",
            "sandbox::processes_are_limited",
            "sandbox::a_limit_too_low",
            "sandbox::a_task_has_no_privileges",
            "life::removing_kills",
            "life::a_process_that_lost_shim_and_containerd",
            "life::it_connects_when",
            "commands::a_kill_from_outside",
        ],
        &[],
    );
}

#[test]
fn the_guest_has_version_two_and_nothing_else() {
    let Some(guest) = Guest::prepare() else { return };
    let ended =
        guest.run(&["sh", "-c", "grep ' cgroup' /proc/mounts; cat /sys/fs/cgroup/cgroup.controllers"]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let lines: Vec<&str> = ended.output.lines().collect();
    assert_eq!(lines.len(), 2, "{ended:?}");
    assert!(lines[0].starts_with("cgroup2 /sys/fs/cgroup cgroup2 "), "{ended:?}");
    for controller in ["cpu", "io", "memory", "pids"] {
        assert!(lines[1].split(' ').any(|name| name == controller), "no {controller}: {ended:?}");
    }
}

#[test]
fn a_guest_ends_at_its_deadline() {
    let Some(guest) = Guest::prepare() else { return };
    let ended = guest.deadline(std::time::Duration::from_secs(1)).run(&["sleep", "1000"]);
    assert_eq!(ended.code, None, "{ended:?}");
    assert!(ended.console.contains("deadline"), "{ended:?}");
}
