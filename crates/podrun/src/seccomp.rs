//! The seccomp profile of containers with `seccompProfile.type: RuntimeDefault`.
//!
//! Pure. The rules are those of containerd 2.1.9 (`contrib/seccomp/seccomp_default.go`, Copyright The containerd
//! Authors, Apache-2.0) for the architectures that podrun is built for; what that file allows from Linux 4.8 on is
//! always allowed here. A rule may depend on the capabilities that a container has; who gets which is not known here.

use serde_json::{Value, json};

/// The capability that opens most.
const ADMIN: &str = "CAP_SYS_ADMIN";

/// Linux's number of the error of a system call that it does not have.
const ENOSYS: u32 = 38;

/// `CLONE_NEWNS`, `NEWCGROUP`, `NEWUTS`, `NEWIPC`, `NEWUSER`, `NEWPID` and `NEWNET`.
const NEW_NAMESPACES: u64 = 0x7e02_0000;

/// `AF_VSOCK`, which leads out of a virtual machine.
const VSOCK: u64 = 40;

/// For whom a rule is.
enum For {
    All,
    Architecture(&'static str),
    With(&'static str),
    Without(&'static str),
}

use For::{All, Architecture, With, Without};

/// What the first argument of a system call must be: an operator and its operand.
type Argument = (&'static str, u64);

/// What is allowed: for whom, and which system calls with which argument. What no rule allows fails with EPERM.
const RULES: &[(For, &str, Option<Argument>)] = &[
    (
        All,
        "accept accept4 access adjtimex alarm bind brk cachestat capget capset chdir chmod chown chown32 \
     clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime clock_gettime64 clock_nanosleep \
     clock_nanosleep_time64 close close_range connect copy_file_range creat dup dup2 dup3 epoll_create \
     epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2 \
     execve execveat exit exit_group faccessat faccessat2 fadvise64 fadvise64_64 fallocate fanotify_mark fchdir \
     fchmod fchmodat fchmodat2 fchown fchown32 fchownat fcntl fcntl64 fdatasync fgetxattr flistxattr flock fork \
     fremovexattr fsetxattr fstat fstat64 fstatat64 fstatfs fstatfs64 fsync ftruncate ftruncate64 futex \
     futex_requeue futex_time64 futex_wait futex_waitv futex_wake futimesat getcpu getcwd getdents getdents64 \
     getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32 getitimer getpeername getpgid \
     getpgrp getpid getppid getpriority getrandom getresgid getresgid32 getresuid getresuid32 getrlimit \
     get_robust_list getrusage getsid getsockname getsockopt get_thread_area gettid gettimeofday getuid getuid32 \
     getxattr inotify_add_watch inotify_init inotify_init1 inotify_rm_watch io_cancel ioctl io_destroy \
     io_getevents io_pgetevents io_pgetevents_time64 ioprio_get ioprio_set io_setup io_submit ipc kill \
     landlock_add_rule landlock_create_ruleset landlock_restrict_self lchown lchown32 lgetxattr link linkat \
     listen listxattr llistxattr _llseek lremovexattr lseek lsetxattr lstat lstat64 madvise membarrier \
     memfd_create memfd_secret mincore mkdir mkdirat mknod mknodat mlock mlock2 mlockall map_shadow_stack mmap \
     mmap2 mprotect mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend \
     mq_timedsend_time64 mq_unlink mremap msgctl msgget msgrcv msgsnd msync munlock munlockall munmap \
     name_to_handle_at nanosleep newfstatat _newselect open openat openat2 pause pidfd_open pidfd_send_signal \
     pipe pipe2 pkey_alloc pkey_free pkey_mprotect poll ppoll ppoll_time64 prctl pread64 preadv preadv2 prlimit64 \
     process_mrelease pselect6 pselect6_time64 pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv \
     recv recvfrom recvmmsg recvmmsg_time64 recvmsg remap_file_pages removexattr rename renameat renameat2 \
     restart_syscall rmdir rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn \
     rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo sched_getaffinity sched_getattr \
     sched_getparam sched_get_priority_max sched_get_priority_min sched_getscheduler sched_rr_get_interval \
     sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield \
     seccomp select semctl semget semop semtimedop semtimedop_time64 send sendfile sendfile64 sendmmsg sendmsg \
     sendto setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups setgroups32 setitimer setpgid \
     setpriority setregid setregid32 setresgid setresgid32 setresuid setresuid32 setreuid setreuid32 setrlimit \
     set_robust_list setsid setsockopt set_thread_area set_tid_address setuid setuid32 setxattr shmat shmctl \
     shmdt shmget shutdown sigaltstack signalfd signalfd4 sigprocmask sigreturn socketcall socketpair splice stat \
     stat64 statfs statfs64 statx symlink symlinkat sync sync_file_range syncfs sysinfo tee tgkill time \
     timer_create timer_delete timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64 \
     timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime timerfd_settime64 times tkill truncate \
     truncate64 ugetrlimit umask uname unlink unlinkat utime utimensat utimensat_time64 utimes vfork vmsplice \
     wait4 waitid waitpid write writev",
        None,
    ),
    (All, "process_vm_readv process_vm_writev ptrace", None),
    (All, "socket", Some(("SCMP_CMP_NE", VSOCK))),
    (All, "personality", Some(("SCMP_CMP_EQ", 0))),
    (All, "personality", Some(("SCMP_CMP_EQ", 0x8))),
    (All, "personality", Some(("SCMP_CMP_EQ", 0x2_0000))),
    (All, "personality", Some(("SCMP_CMP_EQ", 0x2_0008))),
    (All, "personality", Some(("SCMP_CMP_EQ", 0xffff_ffff))),
    (Architecture("x86_64"), "arch_prctl modify_ldt", None),
    (
        Architecture("aarch64"),
        "arm_fadvise64_64 arm_sync_file_range sync_file_range2 breakpoint cacheflush set_tls",
        None,
    ),
    (With("CAP_DAC_READ_SEARCH"), "open_by_handle_at", None),
    (
        With(ADMIN),
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie mount mount_setattr \
     move_mount open_tree perf_event_open quotactl quotactl_fd setdomainname sethostname setns syslog umount \
     umount2 unshare",
        None,
    ),
    (With("CAP_SYS_BOOT"), "reboot", None),
    (With("CAP_SYS_CHROOT"), "chroot", None),
    (With("CAP_SYS_MODULE"), "delete_module init_module finit_module", None),
    (With("CAP_SYS_PACCT"), "acct", None),
    (
        With("CAP_SYS_PTRACE"),
        "kcmp pidfd_getfd process_madvise process_vm_readv process_vm_writev ptrace",
        None,
    ),
    (With("CAP_SYS_RAWIO"), "iopl ioperm", None),
    (With("CAP_SYS_TIME"), "settimeofday stime clock_settime clock_settime64", None),
    (With("CAP_SYS_TTY_CONFIG"), "vhangup", None),
    (With("CAP_SYS_NICE"), "get_mempolicy mbind set_mempolicy set_mempolicy_home_node", None),
    (With("CAP_SYSLOG"), "syslog", None),
    (With("CAP_BPF"), "bpf", None),
    (With("CAP_PERFMON"), "perf_event_open", None),
    // Of which the kernel compares the masked bits with 0: none of them.
    (Without(ADMIN), "clone", Some(("SCMP_CMP_MASKED_EQ", NEW_NAMESPACES))),
];

/// The profile as `linux.seccomp` of the runtime's configuration, for a container with these capabilities.
pub fn runtime_default(architecture: &str, capabilities: &[String]) -> Value {
    let has = |capability: &str| capabilities.iter().any(|name| name == capability);
    let rules = RULES.iter().filter(|(group, ..)| match group {
        All => true,
        Architecture(name) => *name == architecture,
        With(capability) => has(capability),
        Without(capability) => !has(capability),
    });
    let mut system_calls: Vec<_> = rules
        .map(|(_, names, argument)| {
            let names: Vec<_> = names.split_whitespace().collect();
            let argument =
                argument.map(|(op, value)| json!({"index": 0, "value": value, "valueTwo": 0, "op": op}));
            let arguments: Vec<_> = argument.into_iter().collect();
            json!({"names": names, "action": "SCMP_ACT_ALLOW", "args": arguments})
        })
        .collect();
    if !has(ADMIN) {
        // Its flags are in memory, where a filter cannot see them; with this error libraries take clone instead.
        system_calls.push(json!({"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": ENOSYS}));
    }
    let architectures: &[_] = match architecture {
        "x86_64" => &["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "aarch64" => &["SCMP_ARCH_ARM", "SCMP_ARCH_AARCH64"],
        // The machine's own alone.
        _ => &[],
    };
    json!({"defaultAction": "SCMP_ACT_ERRNO", "architectures": architectures, "syscalls": system_calls})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_capability_and_an_architecture_allow() {
        const ALLOWED: &str = "SCMP_ACT_ALLOW";
        const SOMETIMES: &str = "SCMP_ACT_ALLOW with an argument";
        let of = |architecture: &str, capability: &str, call: &str| {
            let profile = runtime_default(architecture, &[capability.to_owned()]);
            let rules = profile["syscalls"].as_array().unwrap();
            let names = |rule: &&Value| rule["names"].as_array().unwrap().iter().any(|name| name == call);
            let rules = rules.iter().filter(names);
            let said = rules.map(|rule| {
                let argument = if rule["args"].get(0).is_some() { " with an argument" } else { "" };
                format!("{}{argument}", rule["action"].as_str().unwrap())
            });
            said.collect::<Vec<_>>()
        };
        for (architecture, capability, call, expected) in [
            ("x86_64", "CAP_CHOWN", "read", &[ALLOWED][..]),
            ("x86_64", "CAP_CHOWN", "mount", &[]),
            ("x86_64", "CAP_CHOWN", "clone", &[SOMETIMES]),
            ("x86_64", "CAP_CHOWN", "clone3", &["SCMP_ACT_ERRNO"]),
            ("x86_64", "CAP_SYS_ADMIN", "mount", &[ALLOWED]),
            ("x86_64", "CAP_SYS_ADMIN", "clone", &[ALLOWED]),
            ("x86_64", "CAP_SYS_ADMIN", "clone3", &[ALLOWED]),
            ("x86_64", "CAP_SYS_ADMIN", "pidfd_getfd", &[]),
            ("x86_64", "CAP_SYS_PTRACE", "pidfd_getfd", &[ALLOWED]),
            ("x86_64", "CAP_SYS_ADMIN", "arch_prctl", &[ALLOWED]),
            ("aarch64", "CAP_SYS_ADMIN", "arch_prctl", &[]),
            ("aarch64", "CAP_SYS_ADMIN", "sync_file_range2", &[ALLOWED]),
        ] {
            assert_eq!(of(architecture, capability, call), expected, "{architecture} {capability} {call}");
        }
    }
}
