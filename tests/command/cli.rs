//! The command line as scripts and people rely on it: help texts, exit codes, output forms.

use crate::support::{Driver, kiln, run, run_ok};
use expect_test::{Expect, expect};

#[test]
fn a_driver_at_something_else_than_http_is_bad_usage() {
    let said = run(["jobs", "--driver", "ftp://localhost:7440"]);
    expect![[r#"
        error: invalid value 'ftp://localhost:7440' for '--driver <URL[,URL…]>': not a driver's URL, which is like http://host:port: "ftp://localhost:7440"

        For more information, try '--help'.
    "#]]
    .assert_eq(&said.stderr);
    assert_eq!(said.code, Some(2));
}

fn check_help(command: &[&str], expected: &Expect) {
    let mut args = command.to_vec();
    args.push("--help");
    expected.assert_eq(&run_ok(args));
}

#[test]
fn help_of_kiln() {
    check_help(
        &[],
        &expect![[r#"
            Count, search and group files, in this process or on a cluster

            Usage: kiln <COMMAND>

            Commands:
              run       Run a job and wait for its result
              submit    Give a job or a program to a cluster, print the job's id and leave it running
              explain   Show how a job would be run: logical plan, optimised plan, stages; or what each step did
              new       Write a small program with a job of one's own, to begin with
              head      Show the first rows of files
              schema    Show the columns of files
              stats     Show what is in files as far as their footers say: rows, encodings, sizes, bounds
              generate  Generate data to try things with
              bench     Measure how fast queries are, and whether their answers are right
              jobs      List the jobs of a cluster
              job       Show a job: its stages, shuffles, and the attempts that were lost or failed
              wait      Wait for a job and print its result
              cancel    Stop a job
              gc        Remove what killed processes have left behind; nothing of jobs that go on
              driver    Be the driver of a cluster
              executor  Be an executor of a cluster
              cluster   Start a driver and executors on this machine; Ctrl-C ends them

            Options:
              -h, --help     Print help
              -V, --version  Print version

            Exit codes: 0 done, 1 the job failed, 2 bad usage, 3 cluster not reachable, 130 interrupted.
            Results go to stdout; progress, warnings and errors to stderr. RUST_LOG sets what is logged.
        "#]],
    );
}

#[test]
fn help_of_run() {
    check_help(
        &["run"],
        &expect![[r#"
            Run a job and wait for its result

            Usage: kiln run [OPTIONS] <JOB>

            Jobs:
              wordcount  Count words: maximal runs of characters without Unicode white space
              grep       Find lines that match a regular expression: path, byte offset and line
              count      Count the rows of Parquet or CSV files by the values of columns
              sort       Sort Parquet or CSV files, or lines of text, by columns
              external   Map and reduce with commands that read lines and print lines KEY<TAB>VALUE

            Options:
                  --driver <URL[,URL…]>  The driver of a cluster to use instead of this process; with standbys,
                                         all of them [env: KILN_DRIVER]
                  --threads <N>          Threads that compute [default: all cores]
                  --memory <SIZE>        Memory budget, e.g. 512MiB or 2GB [default: 70 % of what there is]
                  --json                 Print the result as JSON, one object a line
                  --spill-limit <SIZE>   Local disk for what does not fit into memory, e.g. 100GB [default: what
                                         there is]
                  --weight <N>           Share of the cluster's slots, against those of other jobs, from 1 to
                                         1000 [default: 1]
              -h, --help                 Print help
        "#]],
    );
}

#[test]
fn help_of_wordcount() {
    check_help(
        &["run", "wordcount"],
        &expect![[r#"
            Count words: maximal runs of characters without Unicode white space

            Usage: kiln run wordcount [OPTIONS] <INPUT>...

            Arguments:
              <INPUT>...  Text files, directories, globs or URLs; gzip, zstd and bzip2 are recognised

            Options:
                  --top <N>                    Keep the N most frequent words [default: 20 as a table, all in
                                               files]
                  --lowercase                  Count words in lower case
                  --strict                     Fail on invalid UTF-8 instead of replacing it
                  --output <URL>               Write the result to files in this directory
                  --format <FORMAT>            Format of the files [default: parquet] [possible values: parquet,
                                               csv, json, text]
                  --compression <COMPRESSION>  How the bytes of the files are compressed [default: zstd for
                                               Parquet, none for others] [possible values: none, snappy, lz4,
                                               gzip, zstd]
                  --mode <MODE>                If that directory holds an output already: fail, replace it or
                                               add files to it [default: error] [possible values: error,
                                               overwrite, append]
                  --driver <URL[,URL…]>        The driver of a cluster to use instead of this process; with
                                               standbys, all of them [env: KILN_DRIVER]
                  --threads <N>                Threads that compute [default: all cores]
                  --memory <SIZE>              Memory budget, e.g. 512MiB or 2GB [default: 70 % of what there
                                               is]
                  --json                       Print the result as JSON, one object a line
                  --spill-limit <SIZE>         Local disk for what does not fit into memory, e.g. 100GB
                                               [default: what there is]
                  --weight <N>                 Share of the cluster's slots, against those of other jobs, from 1
                                               to 1000 [default: 1]
              -h, --help                       Print help
        "#]],
    );
}

#[test]
fn help_of_grep() {
    check_help(
        &["run", "grep"],
        &expect![[r#"
            Find lines that match a regular expression: path, byte offset and line

            Usage: kiln run grep [OPTIONS] <PATTERN> <INPUT>...

            Arguments:
              <PATTERN>   A regular expression in the syntax of Rust's regex crate; (?i) ignores case
              <INPUT>...  Text files, directories, globs or URLs; gzip, zstd and bzip2 are recognised

            Options:
                  --strict                     Fail on invalid UTF-8 instead of replacing it
                  --output <URL>               Write the result to files in this directory
                  --format <FORMAT>            Format of the files [default: parquet] [possible values: parquet,
                                               csv, json, text]
                  --compression <COMPRESSION>  How the bytes of the files are compressed [default: zstd for
                                               Parquet, none for others] [possible values: none, snappy, lz4,
                                               gzip, zstd]
                  --mode <MODE>                If that directory holds an output already: fail, replace it or
                                               add files to it [default: error] [possible values: error,
                                               overwrite, append]
                  --driver <URL[,URL…]>        The driver of a cluster to use instead of this process; with
                                               standbys, all of them [env: KILN_DRIVER]
                  --threads <N>                Threads that compute [default: all cores]
                  --memory <SIZE>              Memory budget, e.g. 512MiB or 2GB [default: 70 % of what there
                                               is]
                  --json                       Print the result as JSON, one object a line
                  --spill-limit <SIZE>         Local disk for what does not fit into memory, e.g. 100GB
                                               [default: what there is]
                  --weight <N>                 Share of the cluster's slots, against those of other jobs, from 1
                                               to 1000 [default: 1]
              -h, --help                       Print help
        "#]],
    );
}

#[test]
fn help_of_count() {
    check_help(
        &["run", "count"],
        &expect![[r#"
            Count the rows of Parquet or CSV files by the values of columns

            Usage: kiln run count [OPTIONS] --by <COL[,COL…]> <INPUT>...

            Arguments:
              <INPUT>...  Parquet or CSV files, directories, globs or URLs; all of one format

            Options:
                  --by <COL[,COL…]>            The columns to count by
                  --top <N>                    Keep the N most frequent combinations [default: 20 as a table,
                                               all in files]
                  --output <URL>               Write the result to files in this directory
                  --format <FORMAT>            Format of the files [default: parquet] [possible values: parquet,
                                               csv, json, text]
                  --compression <COMPRESSION>  How the bytes of the files are compressed [default: zstd for
                                               Parquet, none for others] [possible values: none, snappy, lz4,
                                               gzip, zstd]
                  --mode <MODE>                If that directory holds an output already: fail, replace it or
                                               add files to it [default: error] [possible values: error,
                                               overwrite, append]
                  --driver <URL[,URL…]>        The driver of a cluster to use instead of this process; with
                                               standbys, all of them [env: KILN_DRIVER]
                  --threads <N>                Threads that compute [default: all cores]
                  --memory <SIZE>              Memory budget, e.g. 512MiB or 2GB [default: 70 % of what there
                                               is]
                  --json                       Print the result as JSON, one object a line
                  --spill-limit <SIZE>         Local disk for what does not fit into memory, e.g. 100GB
                                               [default: what there is]
                  --weight <N>                 Share of the cluster's slots, against those of other jobs, from 1
                                               to 1000 [default: 1]
              -h, --help                       Print help
        "#]],
    );
}

#[test]
fn help_of_submit() {
    check_help(
        &["submit"],
        &expect![[r#"
            Give a job or a program to a cluster, print the job's id and leave it running

            Usage: kiln submit <JOB> [OPTIONS] …
                   kiln submit <PROGRAM> [--wait] [--driver <URL>] [--weight <N>] [-- <ARGUMENT>…]

            Jobs:
              wordcount  Count words: maximal runs of characters without Unicode white space
              grep       Find lines that match a regular expression: path, byte offset and line
              count      Count the rows of Parquet or CSV files by the values of columns
              sort       Sort Parquet or CSV files, or lines of text, by columns
              external   Map and reduce with commands that read lines and print lines KEY<TAB>VALUE

            Options:
                  --wait                 With a program: end when it does, and as it does
                  --driver <URL[,URL…]>  The cluster's driver; with standbys, all of them [env: KILN_DRIVER]
                  --weight <N>           Share of the cluster's slots, against those of other jobs, from 1 to
                                         1000 [default: 1]
              -h, --help                 Print help

            PROGRAM is the path of a program of your own, with a slash in it: a Rust program that runs a kiln
            App (see `kiln new`). It is started here with its ARGUMENTs and brings itself to the cluster. With
            --wait this command is the program: it shows what the program prints and ends as it does.
        "#]],
    );
}

#[test]
fn help_of_external() {
    check_help(
        &["run", "external"],
        &expect![[r#"
            Map and reduce with commands that read lines and print lines KEY<TAB>VALUE

            Usage: kiln run external [OPTIONS] --map <CMD> --reduce <CMD> <INPUT>...

            Arguments:
              <INPUT>...  Text files, directories, globs or URLs; gzip, zstd and bzip2 are recognised

            Options:
                  --map <CMD>                  Given the lines of the inputs, prints lines KEY<TAB>VALUE
                  --combine <CMD>              Given some of these sorted by key before they are shuffled,
                                               prints fewer of them
                  --reduce <CMD>               Given all lines of some keys sorted by key, prints the result as
                                               lines KEY<TAB>VALUE
                  --top <N>                    Keep the first N lines in the order of keys [default: 20 as a
                                               table, all in files]
                  --strict                     Fail on invalid UTF-8 instead of replacing it
                  --output <URL>               Write the result to files in this directory
                  --format <FORMAT>            Format of the files [default: parquet] [possible values: parquet,
                                               csv, json, text]
                  --compression <COMPRESSION>  How the bytes of the files are compressed [default: zstd for
                                               Parquet, none for others] [possible values: none, snappy, lz4,
                                               gzip, zstd]
                  --mode <MODE>                If that directory holds an output already: fail, replace it or
                                               add files to it [default: error] [possible values: error,
                                               overwrite, append]
                  --driver <URL[,URL…]>        The driver of a cluster to use instead of this process; with
                                               standbys, all of them [env: KILN_DRIVER]
                  --threads <N>                Threads that compute [default: all cores]
                  --memory <SIZE>              Memory budget, e.g. 512MiB or 2GB [default: 70 % of what there
                                               is]
                  --json                       Print the result as JSON, one object a line
                  --spill-limit <SIZE>         Local disk for what does not fit into memory, e.g. 100GB
                                               [default: what there is]
                  --weight <N>                 Share of the cluster's slots, against those of other jobs, from 1
                                               to 1000 [default: 1]
              -h, --help                       Print help

            Each CMD is run with `sh -c`, several times side by side. It fails the job if it ends with another
            exit code than 0; what it said last on stderr is shown.
        "#]],
    );
}

#[test]
fn help_of_explain() {
    check_help(
        &["explain"],
        &expect![[r#"
            Show how a job would be run: logical plan, optimised plan, stages; or what each step did

            Usage: kiln explain [OPTIONS] <JOB>

            Jobs:
              wordcount  Count words: maximal runs of characters without Unicode white space
              grep       Find lines that match a regular expression: path, byte offset and line
              count      Count the rows of Parquet or CSV files by the values of columns
              sort       Sort Parquet or CSV files, or lines of text, by columns
              external   Map and reduce with commands that read lines and print lines KEY<TAB>VALUE
              tpch       A query of TPC-H, over the tables that `kiln bench tpch` reads

            Options:
                  --analyze              Run it, and show what each step did: rows, bytes, time, what was passed
                                         over
                  --driver <URL[,URL…]>  The driver of a cluster to use instead of this process; with standbys,
                                         all of them [env: KILN_DRIVER]
                  --threads <N>          Threads that compute [default: all cores]
                  --memory <SIZE>        Memory budget, e.g. 512MiB or 2GB [default: 70 % of what there is]
                  --spill-limit <SIZE>   Local disk for what does not fit into memory, e.g. 100GB [default: what
                                         there is]
              -h, --help                 Print help
        "#]],
    );
}

#[test]
fn help_of_gc() {
    check_help(
        &["gc"],
        &expect![[r#"
        Remove what killed processes have left behind; nothing of jobs that go on

        Usage: kiln gc [OPTIONS]

        Options:
              --storage <URL>  The storage of a cluster, as its drivers were given it; a driver may be at
                               work there [default: only temporary directories of killed processes are
                               looked for]
              --dry-run        Show what is left behind, and remove nothing
              --json           Print JSON
          -h, --help           Print help
    "#]],
    );
}

#[test]
fn help_of_jobs() {
    check_help(
        &["jobs"],
        &expect![[r#"
            List the jobs of a cluster

            Usage: kiln jobs [OPTIONS]

            Options:
                  --driver <URL[,URL…]>  The cluster's driver; with standbys, all of them [env: KILN_DRIVER]
                                         [default: http://127.0.0.1:7440]
                  --json                 Print JSON
              -h, --help                 Print help
        "#]],
    );
}

#[test]
fn help_of_job() {
    check_help(
        &["job"],
        &expect![[r#"
            Show a job: its stages, shuffles, and the attempts that were lost or failed

            Usage: kiln job [OPTIONS] <ID>

            Arguments:
              <ID>  The job, as `kiln submit` printed it

            Options:
                  --driver <URL[,URL…]>  The cluster's driver; with standbys, all of them [env: KILN_DRIVER]
                                         [default: http://127.0.0.1:7440]
                  --json                 Print JSON
              -h, --help                 Print help
        "#]],
    );
}

#[test]
fn help_of_wait() {
    check_help(
        &["wait"],
        &expect![[r#"
            Wait for a job and print its result

            Usage: kiln wait [OPTIONS] <ID>

            Arguments:
              <ID>  The job, as `kiln submit` printed it

            Options:
                  --driver <URL[,URL…]>  The cluster's driver; with standbys, all of them [env: KILN_DRIVER]
                                         [default: http://127.0.0.1:7440]
                  --json                 Print JSON
              -h, --help                 Print help
        "#]],
    );
}

#[test]
fn help_of_cancel() {
    check_help(
        &["cancel"],
        &expect![[r#"
            Stop a job

            Usage: kiln cancel [OPTIONS] <ID>

            Arguments:
              <ID>  The job, as `kiln submit` printed it

            Options:
                  --driver <URL[,URL…]>  The cluster's driver; with standbys, all of them [env: KILN_DRIVER]
                                         [default: http://127.0.0.1:7440]
                  --json                 Print JSON
              -h, --help                 Print help
        "#]],
    );
}

#[test]
fn help_of_driver() {
    check_help(
        &["driver"],
        &expect![[r#"
            Be the driver of a cluster

            Usage: kiln driver [OPTIONS]

            Options:
                  --listen <ADDRESS>  Address to listen on; port 0 takes a free one [default: 127.0.0.1:7440]
                  --storage <URL>     Directory for shuffle objects and the journal, reachable for every
                                      executor: a path or an s3://, gs:// or az:// URL. Jobs survive the driver:
                                      the next one with the same storage goes on with them, and several at once
                                      stand by for one another [default: a temporary one, removed at the end
                                      together with all jobs]
                  --advertise <URL>   How executors and clients reach this driver [default: the address that it
                                      listens on]
                  --insecure          Listen on other than loopback addresses though nothing authenticates who
                                      connects
                  --allow-programs    Take jobs that bring code of their own: executors run it, confined only by
                                      what the system allows their user
                  --max-jobs <N>      Jobs that may run or wait at once; more are refused [default: 1000]
              -h, --help              Print help

            Time-outs:
                  --heartbeat-ms <MS>     How often executors have to say that they live, in milliseconds
                  --lease-ms <MS>         Silence after which an executor is taken for lost, in milliseconds
                  --grace-ms <MS>         How long a job waits while there is no executor, in milliseconds
                  --leader-lease-ms <MS>  How long whoever leads may be silent before another driver tries to
                                          lead, in milliseconds
        "#]],
    );
}

#[test]
fn help_of_executor() {
    check_help(
        &["executor"],
        &expect![[r#"
            Be an executor of a cluster

            Usage: kiln executor [OPTIONS] --driver <URL[,URL…]>

            Options:
                  --driver <URL[,URL…]>      The driver to work for; with standbys, all of them [env:
                                             KILN_DRIVER]
                  --threads <N>              Threads that compute [default: all cores]
                  --memory <SIZE>            Memory budget, e.g. 512MiB or 2GB [default: 70 % of what there is]
                  --spill-limit <SIZE>       Local disk for what does not fit into memory, e.g. 100GB [default:
                                             what there is]
                  --drain-timeout <SECONDS>  How long to go on with what runs after SIGTERM, in seconds; the
                                             rest is handed back [default: 30]
              -h, --help                     Print help
        "#]],
    );
}

#[test]
fn help_of_cluster() {
    check_help(
        &["cluster"],
        &expect![[r#"
            Start a driver and executors on this machine; Ctrl-C ends them

            Usage: kiln cluster [OPTIONS]

            Options:
                  --executors <N>             Executor processes [default: 2]
                  --threads-per-executor <N>  Threads of each executor [default: all cores, divided among them]
                  --listen <ADDRESS>          Address to listen on; port 0 takes a free one [default:
                                              127.0.0.1:7440]
                  --storage <URL>             Directory for shuffle objects and journals [default: a temporary
                                              one, removed at the end]
                  --insecure                  Listen on other than loopback addresses though nothing
                                              authenticates who connects
                  --allow-programs            Take jobs that bring code of their own: executors run it, confined
                                              only by what the system allows their user
                  --max-jobs <N>              Jobs that may run or wait at once; more are refused [default:
                                              1000]
              -h, --help                      Print help

            Time-outs:
                  --heartbeat-ms <MS>     How often executors have to say that they live, in milliseconds
                  --lease-ms <MS>         Silence after which an executor is taken for lost, in milliseconds
                  --grace-ms <MS>         How long a job waits while there is no executor, in milliseconds
                  --leader-lease-ms <MS>  How long whoever leads may be silent before another driver tries to
                                          lead, in milliseconds
        "#]],
    );
}

#[test]
fn bad_usage_exits_with_2() {
    let cases: &[&[&str]] = &[
        &[],
        &["walk"],
        &["run"],
        &["run", "wordcount"],
        &["run", "wordcount", "--top", "0", "x"],
        &["run", "wordcount", "--top", "many", "x"],
        &["run", "wordcount", "--format", "xml", "--output", "y", "x"],
        &["run", "wordcount", "--format", "csv", "x"],
        &["run", "wordcount", "--memory", "much", "x"],
        &["run", "wordcount", "--threads", "0", "x"],
        &[
            "run",
            "wordcount",
            "--threads",
            "2",
            "--driver",
            "http://127.0.0.1:1",
            "x",
        ],
        &["run", "wordcount", "--driver", "not a url", "x"],
        &["run", "count", "x.csv"],
        &["submit", "wordcount", "x"],
        &["job", "not-an-id"],
        &["driver", "--listen", "nowhere"],
        &["driver", "--listen", "0.0.0.0:0"],
        &["cluster", "--listen", "0.0.0.0:0"],
        &["driver", "--lease-ms", "10", "--heartbeat-ms", "1000"],
        &["executor"],
    ];
    for args in cases {
        let said = run(*args);
        assert_eq!(said.code, Some(2), "{args:?} {said:?}");
        assert!(said.stdout.is_empty(), "{args:?} {said:?}");
    }
}

#[test]
fn a_cluster_that_is_not_there_exits_with_3() {
    // Bound and given back at once: nobody listens there.
    let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}", socket.local_addr().expect("an address"));
    drop(socket);
    let cases: &[&[&str]] = &[
        &["run", "wordcount", "README.md"],
        &["submit", "wordcount", "README.md"],
        &["jobs"],
        &["job", "000000000001"],
        &["wait", "000000000001"],
        &["cancel", "000000000001"],
    ];
    for args in cases {
        let mut args = args.to_vec();
        args.extend(["--driver", &url]);
        let said = run(&args);
        assert_eq!(said.code, Some(3), "{args:?} {said:?}");
        let lines: Vec<&str> = said.stderr.lines().collect();
        assert!(
            lines.len() == 1 && lines[0].starts_with("error: "),
            "{args:?} {said:?}"
        );
        assert!(said.stderr.contains(&url), "{args:?} {said:?}");
    }
}

#[test]
fn an_executor_without_a_driver_gives_up_with_3() {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}", socket.local_addr().expect("an address"));
    drop(socket);
    let said = run(["executor", "--driver", &url]);
    assert_eq!(said.code, Some(3), "{said:?}");
    // Before that it tries for a while, and says so.
    let last = said.stderr.lines().last().expect("a reason");
    assert!(
        last.starts_with("error: ") && last.contains(&url),
        "{said:?}"
    );
}

#[test]
fn the_driver_may_come_from_the_environment() {
    let driver = Driver::start(&[]);
    let output = kiln(["jobs", "--json"])
        .env("KILN_DRIVER", &driver.url)
        .output();
    let output = output.expect("the command starts");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "[]\n");
}

#[test]
fn results_have_a_table_and_a_json_form() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let input = crate::support::write(directory.path(), "a.txt", b"to be or not to be\n");
    let table = run_ok(["run", "wordcount", &input]);
    expect![[r#"
        word  count
        ───────────
        be        2
        to        2
        not       1
        or        1
    "#]]
    .assert_eq(&table);
    let json = run_ok(["run", "wordcount", "--json", "--top", "2", &input]);
    expect![[r#"
        {"word":"be","count":2}
        {"word":"to","count":2}
    "#]]
    .assert_eq(&json);
}

#[test]
fn grep_prints_path_offset_and_line() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    crate::support::write(directory.path(), "a.txt", b"one\ntwo\r\nthree two\n");
    crate::support::write(directory.path(), "b.txt", b"two");
    let output = kiln(["run", "grep", "^t.*o$", "."])
        .current_dir(&directory)
        .output();
    let output = output.expect("the command starts");
    expect![[r#"
        a.txt:4:two
        a.txt:9:three two
        b.txt:0:two
    "#]]
    .assert_eq(&String::from_utf8_lossy(&output.stdout));
}

#[test]
fn count_counts_by_the_columns_of_csv() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let text = b"city,kind,n\nrome,a,1\nrome,b,2\noslo,a,3\nrome,a,4\n";
    let input = crate::support::write(directory.path(), "a.csv", text);
    expect![[r#"
        city  kind  count
        ─────────────────
        rome  a         2
        oslo  a         1
        rome  b         1
    "#]]
    .assert_eq(&run_ok(["run", "count", "--by", "city,kind", &input]));
}

#[test]
fn count_counts_what_wordcount_wrote() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let input = crate::support::write(directory.path(), "a.txt", b"a a b c c d\n");
    for format in ["parquet", "csv"] {
        let output = directory.path().join(format).display().to_string();
        let args = [
            "run",
            "wordcount",
            "--output",
            &output,
            "--format",
            format,
            &input,
        ];
        assert_eq!(run_ok(args), "");
        expect![[r#"
            count  rows
            ───────────
                1     2
                2     2
        "#]]
        .assert_eq(&run_ok(["run", "count", "--by", "count", &output]));
    }
}

#[test]
fn explain_shows_three_levels() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let input = crate::support::write(directory.path(), "a.txt", b"a\n");
    let text = run_ok(["explain", "wordcount", "--threads", "2", &input]);
    let place = directory.path().display().to_string();
    expect![[r#"
        # logical plan
        limit 20
          sort by count DESC, word
            aggregate by word: count(*) AS count
              explode word
                project words(line) AS word
                  scan text lines [path, offset, line] from file://DIR/a.txt

        # optimised plan
        top 20 by count DESC, word
          aggregate by word: count(*) AS count
            scan text words [word] from file://DIR/a.txt

        # stages
        stage 0: 1 task, 2 B of 1 file
          scan text words [word]
          aggregate single by word: count(*) AS count
          top 20 by count DESC, word
          shuffle single
    "#]]
    .assert_eq(&text.replace(&place, "DIR"));
}

#[test]
fn a_closed_stdout_is_not_an_error() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let input = crate::support::write(
        directory.path(),
        "a.txt",
        "line\n".repeat(100_000).as_bytes(),
    );
    let script = format!(
        "'{}' run grep line '{input}' | head -n 1",
        env!("CARGO_BIN_EXE_kiln")
    );
    let output = std::process::Command::new("bash")
        .args(["-c", &script])
        .output();
    let output = output.expect("bash starts");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}
