//! Disk space by project quota, on file systems that have it: in the guest, because this machine's kernel may not.
//! What a file system itself says of its limits is the oracle, asked with its own tools.

use std::fs::{self, Permissions};
use std::io::Cursor;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use serde_json::json;
use teamster_agent::assignment::AttemptId;
use teamster_agent::attempt_dir::AttemptDir;
use teamster_agent::config::DiskSettings;
use teamster_agent::quota::{DiskLimits, Quotas};
use teamster_agent::runtime::image;
use teamster_integration::cluster::{Cluster, Marks, Options, PATIENCE, eventually, shell_task};
use teamster_integration::guest;
use teamster_integration::image::TestImage;
use teamster_integration::stand::Stand;
use teamster_values::TaskId;

use super::{Ended, all_is_well, ended, neighbour};

/// What 0.02 GB come to.
const LIMIT_BYTES: u64 = 21_474_836;

/// Whoever holds a limit may be off by what a file system hands out at one time.
const BLOCKS_BYTES: u64 = 256 << 10;

fn shell(script: &str, arguments: &[&Path]) -> Output {
    let output = Command::new("sh").arg("-ec").arg(script).arg("sh").args(arguments).output().unwrap();
    assert!(output.status.success(), "{script}: {output:?}");
    output
}

/// A file system of its own, with project quota, that goes with this value.
struct Disk(PathBuf);

impl Disk {
    fn new(name: &str, make: &str) -> Self {
        let path = Path::new("/mnt").join(name);
        let script = format!(
            "modprobe loop; modprobe -q quota_v2 || true; mkdir -p \"$1\"; truncate -s 400M /run/{name}; \
             {make} /run/{name}; mount -o loop,prjquota /run/{name} \"$1\"; chmod 1777 \"$1\""
        );
        shell(&script, &[&path]);
        Self(path)
    }

    fn ext4(name: &str) -> Self {
        Self::new(name, "mkfs.ext4 -q -O quota,project")
    }

    fn xfs(name: &str) -> Self {
        Self::new(name, "mkfs.xfs -q")
    }

    /// The projects that have something, or may have only so much: id, KiB, most KiB, files, most files.
    fn projects(&self) -> Vec<[u64; 5]> {
        let output = shell("xfs_quota -f -x -c 'report -p -n -N -b -i' \"$1\"", &[&self.0]);
        let text = String::from_utf8(output.stdout).unwrap();
        let project = |line: &str| {
            // Times of grace stand in brackets, and are one word or two.
            let parts = line.split('[').map(|part| part.split_once(']').map_or(part, |(_, rest)| rest));
            let words: Vec<&str> = parts.flat_map(str::split_whitespace).collect();
            let number = |index: usize| words.get(index)?.trim_start_matches('#').parse().ok();
            // After the numbers of space, as after those of files, stands how often somebody was warned.
            Some([number(0)?, number(1)?, number(3)?, number(5)?, number(7)?])
        };
        let is_used = |project: &[u64; 5]| project[0] != 0 && project[1..] != [0; 4];
        text.lines().filter_map(project).filter(is_used).collect()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// Fills a file in `directory` as a user without privileges until that is refused, and returns its size and what
/// the refusal was.
fn fill(directory: &Path) -> (u64, String) {
    fs::set_permissions(directory.parent().unwrap(), Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(directory, Permissions::from_mode(0o777)).unwrap();
    let file = directory.join("file");
    let script = "setpriv --reuid=65534 --regid=65534 --clear-groups dd if=/dev/zero of=\"$1\" bs=64k count=160 || true";
    let output = shell(script, &[&file]);
    (fs::metadata(file).unwrap().len(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn a_file_system_holds_what_it_is_told() {
    if !guest::is_inside() {
        return;
    }
    for disk in [Disk::ext4("e"), Disk::xfs("x")] {
        let data = disk.0.join("data");
        fs::create_dir(&data).unwrap();
        let quotas = Quotas::open(&data, &DiskSettings::default());
        assert!(quotas.are_on(), "{data:?}");
        let id = |number| AttemptId { task: TaskId::from_bytes([7; 16]), attempt: number };
        let dir = |number| AttemptDir::new(&data, id(number));
        let limits = DiskLimits { bytes: 4 << 20, files: 10 };
        for number in [1, 2] {
            fs::create_dir_all(dir(number).path()).unwrap();
            quotas.enclose(id(number), &dir(number), limits).unwrap();
            quotas.enclose(id(number), &dir(number), limits).unwrap();
        }
        let (filled, refusal) = fill(&dir(1).scratch());
        assert!(refusal.contains("quota exceeded") || refusal.contains("No space left"), "{refusal}");
        assert!((limits.bytes - BLOCKS_BYTES..=limits.bytes).contains(&filled), "{filled}");
        let files =
            "cd \"$1\"; for i in $(seq 20); do setpriv --reuid=65534 touch $i || true; done; ls | wc -l";
        fs::set_permissions(dir(2).scratch(), Permissions::from_mode(0o777)).unwrap();
        let made = shell(files, &[&dir(2).scratch()]).stdout;
        assert_eq!(String::from_utf8(made).unwrap().trim(), "9", "and the directory itself");
        // Who is not confined can leave: it is the filter of system calls that keeps tasks from it.
        let leave =
            "rm \"$1\"/*; setpriv --reuid=65534 sh -ec 'mkdir \"$1/own\"; chattr -p 7 \"$1/own\"' sh \"$1\"";
        shell(leave, &[&dir(2).scratch()]);
        assert!(disk.projects().iter().any(|project| project[0] == 7), "{:?}", disk.projects());
        shell("rmdir \"$1/own\"", &[&dir(2).scratch()]);
        let usage = quotas.usage(id(1)).unwrap().unwrap();
        assert!(usage.files == 2 && usage.bytes >= filled && usage.bytes <= limits.bytes, "{usage:?}");
        soon(&disk, "the other one to have only its own", || {
            quotas.usage(id(2)).unwrap().unwrap().files == 1
        });
        let projects = disk.projects();
        assert!(projects.len() == 2 && projects[0][2] == 4096 && projects[0][4] == 10, "{projects:?}");

        // What the next agent finds by itself; the second one's directory was lost meanwhile.
        drop(quotas);
        fs::remove_dir(dir(2).scratch()).unwrap();
        let quotas = Quotas::open(&data, &DiskSettings::default());
        quotas.adopt(&data, [id(1), id(2)]);
        assert_eq!((quotas.usage(id(1)).unwrap().unwrap().files, quotas.usage(id(2)).is_none()), (2, true));
        // xfs counts what was deleted a moment later.
        soon(&disk, "a limit without files to be nobody's", || {
            quotas.sweep();
            disk.projects().len() == 1
        });
        quotas.enclose(id(3), &dir(1), DiskLimits { bytes: 8 << 20, files: 10 }).unwrap();
        assert_eq!(disk.projects()[0][2], 8192, "who owns the directory has the project");
        fs::remove_dir_all(dir(1).scratch()).unwrap();
        quotas.release(id(1)).unwrap();
        soon(&disk, "nothing to be left", || disk.projects().is_empty());

        // An operator's own limit on all of it goes on to count.
        shell("chattr +P -p 17 \"$1\"", &[&data]);
        assert!(!Quotas::open(&data, &DiskSettings::default()).are_on());
        let off = DiskSettings { projects: 0, ..DiskSettings::default() };
        assert!(!Quotas::open(&data, &off).are_on());
    }
}

fn soon(disk: &Disk, what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(
            Instant::now() < deadline,
            "waited in vain for {what}: {:?} on {:?}",
            disk.projects(),
            disk.0
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn filler(cluster: &Cluster, script: &str) -> serde_json::Value {
    let mut task = shell_task("filler", &[script.to_owned()]);
    task["resources"]["disk_gb"] = json!(0.02);
    task["volumes"] = json!(["/data"]);
    task["outputs"] = json!([{"path": "/data/kept", "url": cluster.shared().join("kept")}]);
    task
}

fn has_met_its_limit(filler: &Ended) {
    let found = (filler.state.as_str(), filler.reason.as_str(), filler.exit_code);
    assert_eq!(found, ("EXECUTOR_ERROR", "DISK_LIMIT", 3), "by itself: {filler:?}");
    assert!(filler.system_logs.contains("may have 20.5MiB"), "{filler:?}");
}

/// The size of the file that filled it, which its task printed last.
fn filled(filler: &Ended) -> u64 {
    filler.stdout.split_whitespace().last().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_beyond_the_limit_is_refused() {
    if !guest::is_inside() {
        return;
    }
    let disk = Disk::ext4("q");
    let stand = Stand::start_in(&disk.0).await;
    let floor = "disk_floor = '0B'\n";
    let options =
        Options { coordinator_toml: floor.to_owned(), agent_toml: floor.to_owned(), ..super::options() };
    let mut cluster = stand.cluster(&options).await;
    let log = fs::read_to_string(cluster.dir.join("logs/agent.log")).unwrap();
    assert!(log.contains("has a hard limit by project quota"), "{log}");
    let nodes = cluster.client.get("/v1/nodes").await;
    // A containerd that does not answer in time is not waited for.
    let versions = nodes["nodes"][0]["versions"].as_object().unwrap();
    assert!(versions.is_empty() || versions["disk"] == "project quota", "{nodes}");
    let image = TestImage::named("leaver").program(Path::new("/usr/bin/chattr"), "/bin/chattr");
    image::import(&stand.containerd.socket(), Cursor::new(image.oci_archive())).await.unwrap();
    let marks = Marks::new(&cluster.shared());
    let neighbour = neighbour(&cluster, &marks).await;

    let fill =
        "dd if=/dev/zero of=/data/x bs=64k count=640; code=$?; stat -c %s /data/x; test $code = 0 || exit 3";
    let in_bounds = LIMIT_BYTES - BLOCKS_BYTES..=LIMIT_BYTES;
    // There is no way out of the project; what is deleted makes room; and an output is put in place.
    let script = format!(
        "for flag in '-p 7' -P +d; do for place in /data /tmp; do chattr $flag $place && echo left by $flag; done; done
         echo kept > /data/kept; dd if=/dev/zero of=/tmp/y bs=1M count=15 && rm /tmp/y || exit 9; {fill}"
    );
    let mut task = filler(&cluster, &script);
    task["executors"][0]["image"] = json!("leaver");
    let refused = ended(&cluster, &task).await;
    has_met_its_limit(&refused);
    assert!(refused.stderr.contains("Disk quota exceeded"), "{refused:?}");
    assert_eq!(refused.stderr.matches("Operation not permitted").count(), 6, "{refused:?}");
    assert!(in_bounds.contains(&filled(&refused)) && !refused.stdout.contains("left"), "{refused:?}");
    assert_eq!(fs::read_to_string(cluster.shared().join("kept")).unwrap(), "kept\n");

    // A command that makes do is a command that ended well.
    let script = format!("echo kept > /data/kept; ({fill}) || true");
    let content = ended(&cluster, &filler(&cluster, &script)).await;
    assert_eq!(content.state, "COMPLETE", "{content:?}");
    assert!(content.system_logs.contains("DISK_LIMIT"), "{content:?}");

    // With nobody there who could look, and through a restart.
    let begun = format!("{}; {}; {fill}", marks.shell("alone"), marks.shell_gate("alone-gate"));
    let id = cluster.client.submit(&filler(&cluster, &begun)).await;
    eventually("the task to run", async || (marks.count("alone") == 1).then_some(())).await;
    cluster.kill_agent();
    let limited = disk.projects().iter().filter(|project| project[2] == LIMIT_BYTES.div_ceil(1024)).count();
    assert_eq!(limited, 1, "{:?}", disk.projects());
    marks.open_gate("alone-gate");
    cluster.start_agent(&[]);
    let alone = Ended::of(&cluster.client.wait(&id).await);
    has_met_its_limit(&alone);
    assert!(in_bounds.contains(&filled(&alone)), "{alone:?}");

    all_is_well(&cluster, &marks, &neighbour).await;
    eventually("nothing to be left", async || disk.projects().is_empty().then_some(())).await;
}
