//! Tests of `plan.rs`: the shapes that engines send, the rules one by one, and what is refused.

use std::time::Duration;

use teamster_values::{PathPattern, TaskId};

use super::*;
use crate::assignment::{AttemptId, Input, InputSource, Output, Resources, Wildcards};
use crate::config::StorageKind;

fn at(text: &str) -> AbsolutePath {
    AbsolutePath::parse(text).unwrap()
}

fn empty() -> Assignment {
    Assignment {
        id: AttemptId { task: TaskId::from_bytes([1; 16]), attempt: 1 },
        executors: vec![executor()],
        inputs: Vec::new(),
        outputs: Vec::new(),
        volumes: Vec::new(),
        limits: Resources::default(),
        lease: Duration::from_secs(60),
        network: None,
        time_limit: None,
        image_entrypoint: false,
    }
}

fn executor() -> Executor {
    Executor {
        image: "busybox".into(),
        command: vec!["true".into()],
        workdir: None,
        stdin: None,
        stdout: None,
        stderr: None,
        env: BTreeMap::new(),
        ignore_error: false,
    }
}

fn input(path: &str, url: &str) -> Input {
    let kind = if path.ends_with('/') { FileKind::Directory } else { FileKind::File };
    Input { path: at(path), kind, source: InputSource::Url(url.into()) }
}

fn content(path: &str) -> Input {
    Input { path: at(path), kind: FileKind::File, source: InputSource::Content("hello".into()) }
}

fn output(path: &str, url: &str) -> Output {
    let kind = if path.ends_with('/') { FileKind::Directory } else { FileKind::File };
    Output { path: at(path), kind, url: url.into(), wildcards: None }
}

fn matching(pattern: &str, prefix: &str, url: &str) -> Output {
    let pattern = PathPattern::parse(pattern).unwrap();
    let path = pattern.directory();
    let wildcards = Some(Wildcards { pattern, prefix: at(prefix) });
    Output { path, kind: FileKind::File, url: url.into(), wildcards }
}

fn shared() -> Vec<StorageConfig> {
    vec![StorageConfig { name: "shared".into(), kind: StorageKind::Directory, path: at("/mnt/shared") }]
}

fn dir() -> AttemptDir {
    AttemptDir::new(Path::new("/data"), empty().id)
}

fn planned(assignment: &Assignment) -> Plan {
    plan(assignment, &Sandbox::default(), &shared(), &dir()).unwrap()
}

fn refused(assignment: &Assignment) -> String {
    plan(assignment, &Sandbox::default(), &shared(), &dir()).unwrap_err().to_string()
}

/// Each mount as `destination kind`, scratch numbers and pins told by what they are.
fn mounts_of(plan: &Plan) -> Vec<String> {
    let text = |mount: &Mount| {
        let kind = if mount.source.starts_with(plan.dir.scratch()) {
            "scratch".to_owned()
        } else if let Some(pin) = plan.pins.iter().find(|pin| pin.at == mount.source) {
            assert_eq!(pin.create, !mount.read_only);
            format!(
                "{}/{} {}",
                pin.storage,
                pin.relative.display(),
                if mount.read_only { "ro" } else { "rw" }
            )
        } else {
            assert_eq!((mount.source.as_path(), mount.follows_mounts), (mount.destination.as_path(), true));
            "storage".to_owned()
        };
        format!("{} {kind}", mount.destination)
    };
    plan.mounts.iter().map(text).collect()
}

/// The mounts without those that every task has.
fn own_mounts(plan: &Plan) -> Vec<String> {
    let always = ["/home/task scratch", "/mnt/shared storage", "/tmp scratch", "/var/tmp scratch"];
    mounts_of(plan).into_iter().filter(|mount| !always.contains(&mount.as_str())).collect()
}

fn scratch_of(plan: &Plan, destination: &str) -> Vec<String> {
    let mount = plan.mounts.iter().find(|mount| mount.destination.as_str() == destination).unwrap();
    let root = mount.source.strip_prefix(plan.dir.scratch()).unwrap();
    let below = plan.scratch.iter().filter_map(|made| made.relative.strip_prefix(root).ok());
    below.map(|way| way.display().to_string()).collect()
}

fn made_on_storage(plan: &Plan) -> Vec<&str> {
    plan.directories.iter().map(|directory| directory.path.as_str()).collect()
}

#[test]
fn a_task_without_files_has_what_every_task_has() {
    let plan = planned(&empty());
    assert_eq!(
        mounts_of(&plan),
        ["/home/task scratch", "/mnt/shared storage", "/tmp scratch", "/var/tmp scratch"]
    );
    assert!(plan.pins.is_empty() && plan.inputs.is_empty() && plan.directories.is_empty());
    let open: Vec<_> = plan.scratch.iter().filter(|made| made.open_to_all).collect();
    assert_eq!(open.len(), 2, "only the temporary directories are open to all");
    assert!(plan.scratch.iter().any(|made| made.relative == Path::new("workdir-0")));
}

const CALL: &str = "cromwell-executions/wf/1d0f/call-greet";

/// Container paths below `root`, storage below `/mnt/shared`.
fn cromwell(root: &str) -> Assignment {
    let inside = |name: &str| format!("{root}{CALL}/{name}");
    let outside = |name: &str| format!("/mnt/shared/{CALL}/{name}");
    let mut task = empty();
    task.inputs = vec![
        input(&inside("inputs/mnt/shared/data/in.txt"), "/mnt/shared/data/in.txt"),
        input(&inside("execution/script"), &outside("execution/script")),
        input(&inside("execution/write_lines_1.tmp"), &outside("execution/write_lines_1.tmp")),
    ];
    let names = ["rc", "stdout", "stderr", "script", "greeting.txt", "glob-0f/", "glob-0f.list", "sub/x.txt"];
    task.outputs = names
        .map(|name| output(&inside(&format!("execution/{name}")), &outside(&format!("execution/{name}"))))
        .into();
    task.executors[0].stdout = Some(at(&inside("execution/stdout")));
    task.executors[0].stderr = Some(at(&inside("execution/stderr")));
    task
}

#[test]
fn cromwell_gets_its_execution_directory_bound() {
    let plan = planned(&cromwell("/"));
    assert_eq!(
        own_mounts(&plan),
        [
            format!("/{CALL}/execution /mnt/shared/{CALL}/execution rw"),
            format!("/{CALL}/inputs/mnt/shared/data scratch"),
        ]
    );
    assert_eq!(
        made_on_storage(&plan),
        [format!("/{CALL}/execution/sub")],
        "the script makes its glob itself"
    );
    assert_eq!(plan.inputs.len(), 3);
    assert_eq!(plan.outputs[5].to.as_str(), format!("/mnt/shared/{CALL}/execution/glob-0f"));
}

#[test]
fn cromwell_with_equal_paths_needs_no_mount() {
    let plan = planned(&cromwell("/mnt/shared/"));
    assert!(own_mounts(&plan).is_empty(), "{:?}", own_mounts(&plan));
    let call = format!("/mnt/shared/{CALL}");
    assert_eq!(
        made_on_storage(&plan),
        [
            format!("{call}/execution"),
            format!("{call}/execution/sub"),
            format!("{call}/inputs/mnt/shared/data")
        ]
    );
}

#[test]
fn nextflow_mixes_sources_and_gets_scratch() {
    let mut task = empty();
    let work = "/mnt/shared/nf/work/3a/9f1c2d";
    task.inputs = vec![
        input("/work/.command.sh", &format!("{work}/.command.sh")),
        input("/work/reads.fq", "/mnt/shared/data/reads.fq"),
    ];
    task.outputs = vec![
        output("/work/.exitcode", &format!("{work}/.exitcode")),
        output("/work/qc/", &format!("{work}/qc")),
    ];
    task.executors[0].workdir = Some(at("/work"));
    let plan = planned(&task);
    // The directory output is bound inside the scratch, on a mount point that is there beforehand.
    assert_eq!(own_mounts(&plan), ["/work scratch".to_owned(), format!("/work/qc {work}/qc rw")]);
    assert_eq!(scratch_of(&plan, "/work"), ["", "qc"]);
}

#[test]
fn nextflow_without_foreign_inputs_is_bound_whole() {
    let mut task = empty();
    let work = "/mnt/shared/nf/work/3a/9f1c2d";
    task.inputs = vec![input("/work/.command.sh", &format!("{work}/.command.sh"))];
    task.outputs =
        vec![output("/work/qc/", &format!("{work}/qc")), output("/work/log", &format!("{work}/log"))];
    assert_eq!(own_mounts(&planned(&task)), [format!("/work {work} rw")]);
}

#[test]
fn what_wildcards_match_lies_in_a_directory_like_any_other() {
    let mut task = empty();
    task.inputs = vec![input("/work/.command.sh", "/mnt/shared/w/3a/.command.sh")];
    task.outputs = vec![
        output("/work/.exitcode", "/mnt/shared/w/3a/.exitcode"),
        matching("/work/*.bam", "/work", "/mnt/shared/w/3a/"),
        matching("/work/qc/*/x", "/work", "/mnt/shared/w/3a"),
    ];
    let plan = planned(&task);
    assert_eq!(own_mounts(&plan), ["/work /mnt/shared/w/3a rw"]);
    assert!(made_on_storage(&plan).is_empty(), "a directory inside another output is left to the task");
    let work = &plan.outputs[2];
    assert_eq!((work.from.as_str(), work.to.as_str()), ("/work", "/mnt/shared/w/3a"));
    assert_eq!(plan.outputs[1].url, "/mnt/shared/w/3a");
    // Elsewhere it is private, and copied at the end.
    task.outputs.push(matching("/work/[ab]", "/work", "/mnt/shared/elsewhere"));
    assert_eq!(own_mounts(&planned(&task)), ["/work scratch", "/work/qc /mnt/shared/w/3a/qc rw"]);
    let mut task = empty();
    task.outputs = vec![matching("/data/out/*", "/", "/mnt/shared/all")];
    assert_eq!(own_mounts(&planned(&task)), ["/data/out /mnt/shared/all/data/out rw"]);
    task.outputs = vec![matching("/mnt/shared/a/*", "/mnt/shared/a", "/mnt/shared/a/b")];
    assert!(refused(&task).contains("outputs[0].url: must not lie within the path"));
    task.outputs = vec![matching("/*/x", "/", "/mnt/shared/a")];
    assert!(refused(&task).contains("outputs[0].path: must not be the root directory"));
}

#[test]
fn cwl_output_directory_is_bound_with_the_file_in_it() {
    let mut task = empty();
    task.inputs = vec![input("/var/lib/cwl/stg2ab/in.txt", "file:///mnt/shared/cwl/in.txt")];
    task.outputs = vec![
        output("/lHQXys/out.txt", "file:///mnt/shared/cwl/otmp/out.txt"),
        output("/lHQXys/", "file:///mnt/shared/cwl/otmp/"),
    ];
    task.executors[0].workdir = Some(at("/lHQXys"));
    task.executors[0].stdout = Some(at("/lHQXys/out.txt"));
    task.executors[0].env.insert("HOME".into(), "/lHQXys".into());
    let plan = planned(&task);
    assert_eq!(
        mounts_of(&plan),
        [
            "/lHQXys /mnt/shared/cwl/otmp rw",
            "/mnt/shared storage",
            "/tmp scratch",
            "/var/lib/cwl/stg2ab scratch",
            "/var/tmp scratch"
        ]
    );
    assert_eq!(plan.outputs[1].url, "file:///mnt/shared/cwl/otmp");
    // A file from elsewhere inside the output directory: nothing of it may land on the storage.
    task.inputs.push(input("/lHQXys/initial.txt", "file:///mnt/shared/cwl/initial.txt"));
    assert!(own_mounts(&planned(&task)).contains(&"/lHQXys scratch".to_owned()));
}

#[test]
fn snakemake_script_lies_in_the_private_tmp() {
    let mut task = empty();
    task.inputs = vec![content("/tmp/run_snakemake.sh")];
    task.executors[0].workdir = Some(at("/tmp/deeper"));
    let plan = planned(&task);
    assert!(own_mounts(&plan).is_empty());
    assert_eq!(scratch_of(&plan, "/tmp"), ["", "deeper"], "a working directory in scratch is made");
    assert_eq!(plan.inputs[0].source, InputFrom::Content("hello".into()));
}

#[test]
fn a_directory_input_at_its_own_path_is_the_storage_itself() {
    let mut task = empty();
    task.inputs = vec![input("/mnt/shared/jobstore/", "file:///mnt/shared/jobstore")];
    let plan = planned(&task);
    assert!(own_mounts(&plan).is_empty() && plan.directories.is_empty());
}

#[test]
fn a_directory_input_is_read_only_unless_it_holds_an_output() {
    let mut task = empty();
    task.inputs = vec![input("/ref/", "/mnt/shared/ref/hg38")];
    assert_eq!(own_mounts(&planned(&task)), ["/ref /mnt/shared/ref/hg38 ro"]);
    task.outputs = vec![output("/ref/index/a", "/mnt/shared/ref/hg38/index/a")];
    let plan = planned(&task);
    assert_eq!(own_mounts(&plan), ["/ref /mnt/shared/ref/hg38 rw"]);
    assert_eq!(made_on_storage(&plan), ["/ref/index"]);
    // Another name in the storage: the directory becomes a tree of links, so that the output can be apart.
    task.outputs = vec![output("/ref/index", "/mnt/shared/elsewhere")];
    assert_eq!(own_mounts(&planned(&task)), ["/ref scratch"]);
}

#[test]
fn inputs_alone_are_links_in_scratch() {
    let mut task = empty();
    task.inputs = vec![input("/data/a", "/mnt/shared/x/a"), input("/data/deep/b", "/mnt/shared/x/deep/b")];
    let plan = planned(&task);
    assert_eq!(own_mounts(&plan), ["/data scratch"]);
    assert_eq!(scratch_of(&plan, "/data"), ["", "deep"]);
}

#[test]
fn another_name_forbids_binding() {
    let mut task = empty();
    task.outputs = vec![output("/data/a", "/mnt/shared/x/b")];
    assert_eq!(own_mounts(&planned(&task)), ["/data scratch"]);
    task.outputs = vec![output("/data/a", "/mnt/shared/x/a"), output("/data/a", "/mnt/shared/y/a")];
    assert_eq!(own_mounts(&planned(&task)), ["/data scratch"], "two places cannot both be bound");
    task.outputs.truncate(1);
    assert_eq!(own_mounts(&planned(&task)), ["/data /mnt/shared/x rw"]);
    task.volumes = vec![at("/data/tmp")];
    assert_eq!(own_mounts(&planned(&task)), ["/data scratch"], "a volume needs a place that is not storage");
}

#[test]
fn texts_that_begin_alike_are_not_below() {
    let mut task = empty();
    task.outputs = vec![output("/data/a", "/mnt/shared/x/a"), output("/data-2/b", "/mnt/shared/y/b")];
    assert_eq!(own_mounts(&planned(&task)), ["/data /mnt/shared/x rw", "/data-2 /mnt/shared/y rw"]);
}

#[test]
fn scratch_over_a_storage_has_its_mount_point() {
    let mut task = empty();
    task.inputs = vec![input("/mnt/in.txt", "/mnt/shared/in.txt")];
    let plan = planned(&task);
    let mounts = mounts_of(&plan);
    assert_eq!(mounts[1..3], ["/mnt scratch", "/mnt/shared storage"], "outermost first");
    assert_eq!(scratch_of(&plan, "/mnt"), ["", "shared"]);
}

#[test]
fn nothing_is_bound_over_a_storage_or_a_private_place() {
    let mut task = empty();
    task.outputs = vec![output("/mnt/out.txt", "/mnt/shared/x/out.txt"), output("/tmp/o", "/mnt/shared/t/o")];
    assert_eq!(own_mounts(&planned(&task)), ["/mnt scratch"]);
}

#[test]
fn a_name_within_storage_is_served_in_place() {
    let mut task = empty();
    task.inputs = vec![input("/mnt/shared/b/in", "/mnt/shared/a/in")];
    task.outputs = vec![output("/mnt/shared/b/out", "/mnt/shared/c/out")];
    let plan = planned(&task);
    assert!(own_mounts(&plan).is_empty() && plan.pins.is_empty());
    assert_eq!(made_on_storage(&plan), ["/mnt/shared/b"]);
}

#[test]
fn many_private_directories_become_few_mounts() {
    let mut task = empty();
    task.inputs =
        (0..3000).map(|n| input(&format!("/x/call/in/{n}/f"), &format!("/mnt/shared/{n}/g"))).collect();
    let plan = planned(&task);
    assert_eq!(own_mounts(&plan), ["/x/call/in scratch"]);
    assert_eq!(scratch_of(&plan, "/x/call/in").len(), 3001);
}

#[test]
fn containers_are_complete() {
    let mut task = empty();
    task.executors = vec![executor(), executor(), executor()];
    task.executors[0].workdir = Some(at("/w"));
    task.executors[2].workdir = Some(at("/w"));
    task.executors[2].stdin = Some(at("/tmp/in"));
    task.executors[2].env = [("PATH", "/mine"), ("A", "3")].map(|(k, v)| (k.into(), v.into())).into();
    let image = Image {
        name: "n".into(),
        digest: "d".into(),
        chain_id: "c".into(),
        env: ["PATH=/image", "A=1", "HOME=/root", "B=2", "junk"].map(String::from).into(),
        workdir: Some(at("/proc/self/fd/8")),
        entrypoint: vec!["/enter".into(), "--".into()],
        ..Image::default()
    };
    let plan = planned(&task);
    let (first, second) = (plan.container(0, image.clone(), 99), plan.container(1, image.clone(), 99));
    let third = plan.container(2, image.clone(), 99);
    assert_eq!(first.env, ["A=1", "B=2", "HOME=/home/task", "PATH=/image", "TMPDIR=/tmp"]);
    assert_eq!(third.env, ["A=3", "B=2", "HOME=/home/task", "PATH=/mine", "TMPDIR=/tmp"]);
    assert!(second.workdir.is_root(), "an image cannot send a task into the kernel's trees");
    assert_eq!(first.workdir_scratch, third.workdir_scratch);
    assert_ne!(first.workdir_scratch, second.workdir_scratch);
    assert_eq!((first.stdin, third.stdin), (None, Some(plan.dir.stdin(2))));
    assert_eq!(third.stdout, plan.dir.stdout(2));
    assert_eq!((third.identity.uid, third.pids_max), (65534, 4096));
    assert_eq!(third.binds.len(), plan.mounts.len());
    assert_eq!(first.args, ["true"], "the command alone, unless the task asks for more");
    task.image_entrypoint = true;
    assert_eq!(planned(&task).container(0, image, 99).args, ["/enter", "--", "true"]);
}

#[test]
fn a_home_that_cannot_be_had_is_left_to_the_image() {
    let mut task = empty();
    for (home, there) in [("/root", true), ("/etc/x", false), ("/", false), ("relative", false)] {
        task.executors[0].env.insert("HOME".into(), home.into());
        let mounted = own_mounts(&planned(&task)).contains(&format!("{home} scratch"));
        assert_eq!(mounted, there, "{home}");
    }
}

#[test]
fn refuses_and_names_every_field() {
    let mut task = empty();
    for path in ["/x", "/usr/bin/x", "/etc/x", "/etc/a/b/x", "/proc/1/x", "/dev/shm/x", "/lib64/x", "/var/x"]
    {
        task.inputs.push(input(path, "/mnt/shared/x"));
    }
    task.inputs.push(input("/opt/tool/data", "/mnt/shared/x"));
    task.outputs = vec![
        matching("/work/*.bam", "/other", "/mnt/shared/w"),
        output("/work/a", "/mnt/shared2/a"),
        output("/work/b", "s3://bucket/b"),
        output("/work/c", "/mnt/shared/../etc/c"),
        output("/", "/mnt/shared/w"),
        output("/bin/", "/mnt/shared/w"),
    ];
    task.volumes = vec![at("/usr"), at("/mnt/shared/v"), at("/fine")];
    task.executors[0].stdout = Some(at("/dev/stdout"));
    task.executors[0].stderr = Some(at("/dev/stdout"));
    task.executors[0].workdir = Some(at("/proc/self/fd/7"));
    let text = refused(&task);
    for index in 0..8 {
        assert!(text.contains(&format!("inputs[{index}].path: ")), "{index}: {text}");
    }
    for field in [
        "outputs[0].path_prefix: must be a directory above the wildcards",
        "outputs[1].url: /mnt/shared2/a lies on no storage",
        "outputs[2].url: the scheme 's3'",
        "outputs[3].url: must not contain '..'",
        "outputs[4].path: must not be the root",
        "outputs[5].path: /bin is one of the image's own",
        "volumes[0]: ",
        "volumes[1]: lies on shared storage",
        "executors[0].stdout: ",
        "executors[0].stderr: is the same file as stdout",
        "executors[0].workdir: ",
    ] {
        assert!(text.contains(field), "{field} in {text}");
    }
    assert!(!text.contains("inputs[8]") && !text.contains("volumes[2]"), "{text}");
}

#[test]
fn refuses_what_cannot_be_had_together() {
    let mut task = empty();
    task.inputs = vec![input("/d/a", "/mnt/shared/1"), input("/d/a", "/mnt/shared/2")];
    assert_eq!(refused(&task), "inputs[1].path: is the same as inputs[0].path");
    task.inputs = vec![input("/d/a", "/mnt/shared/1"), input("/d/a", "/mnt/shared/1")];
    planned(&task);
    task.inputs = vec![input("/d/a", "/mnt/shared/1"), content("/d/a-b"), content("/d/a/b")];
    assert!(refused(&task).contains("inputs[0].path: is a FILE, but inputs[2] needs a directory"));
    task.inputs = vec![content("/home/task")];
    assert!(refused(&task).contains("inputs[0].path: is a FILE"));
    task.inputs = vec![input("/mnt/shared/a/b/", "/mnt/shared/a")];
    assert!(refused(&task).contains("inputs[0].url: must not lie within"));
    task.inputs = vec![Input { kind: FileKind::Directory, ..content("/d/a") }];
    assert!(refused(&task).contains("inputs[0].type"));
}

#[test]
fn a_node_without_storage_serves_content_only() {
    let mut task = empty();
    task.inputs = vec![content("/data/a")];
    plan(&task, &Sandbox::default(), &[], &dir()).unwrap();
    task.inputs.push(input("/data/b", "/mnt/shared/b"));
    let error = plan(&task, &Sandbox::default(), &[], &dir()).unwrap_err();
    assert_eq!(error.fields.len(), 1);
}
