"""The system calls that programs may make, as a seccomp filter.

A call that is not allowed fails: with EPERM if it is listed as refused, with ENOSYS if it is not
listed, so that the C library falls back to an older call (from clone3 to clone, say, whose flags a
filter can read). One filter, installed once, serves the zygote and the programs alike; the kernel
caches verdicts that do not depend on arguments.
"""

import ctypes
import errno
import struct

from worker_processes import PR_SET_NO_NEW_PRIVS, libc, prctl

PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 22, 2
_KILL, _ALLOW, _ERRNO = 0x80000000, 0x7FFF0000, 0x00050000
_LOAD, _JUMP_EQUAL, _JUMP_GREATER_EQUAL, _JUMP_ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER_AT, _ARCHITECTURE_AT, _ARGUMENT_AT = 0, 4, 16
# The AUDIT_ARCH constant, and the column of the tables below.
_MACHINES = {"x86_64": (0xC000003E, 1), "aarch64": (0xC00000B7, 2)}
_X32_BIT = 0x40000000

NEW_NAMESPACES = 0x7E020000  # CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID and NEWNET
CLONE_NEW_PID_SIGCHLD = 0x20000000 | 17
# TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FIO(N)CLEX
_TERMINAL_QUESTIONS = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)

# Name, number on x86_64, number on aarch64; "-" where it has none.
_ALLOWED = """
    access 21 -                | alarm 37 -                     | arch_prctl 158 -
    brk 12 214                 | capget 125 90                  | capset 126 91
    chdir 80 49                | chmod 90 -                     | chown 92 -
    clock_getres 229 114       | clock_gettime 228 113          | clock_nanosleep 230 115
    clone 56 220               | close 3 57                     | close_range 436 436
    copy_file_range 326 285    | creat 85 -                     | dup 32 23
    dup2 33 -                  | dup3 292 24                    | epoll_create 213 -
    epoll_create1 291 20       | epoll_ctl 233 21               | epoll_pwait 281 22
    epoll_pwait2 441 441       | epoll_wait 232 -               | eventfd 284 -
    eventfd2 290 19            | exit 60 93                     | exit_group 231 94
    faccessat 269 48           | faccessat2 439 439             | fadvise64 221 223
    fallocate 285 47           | fchdir 81 50                   | fchmod 91 52
    fchmodat 268 53            | fchown 93 55                   | fchownat 260 54
    fcntl 72 25                | fdatasync 75 83                | fgetxattr 193 10
    flistxattr 196 13          | flock 73 32                    | fork 57 -
    fstat 5 80                 | fstatfs 138 44                 | fsync 74 82
    ftruncate 77 46            | futex 202 98                   | futimesat 261 -
    get_robust_list 274 100    | getcpu 309 168                 | getcwd 79 17
    getdents 78 -              | getdents64 217 61              | getegid 108 177
    geteuid 107 175            | getgid 104 176                 | getgroups 115 158
    getitimer 36 102           | getpeername 52 205             | getpgid 121 155
    getpgrp 111 -              | getpid 39 172                  | getppid 110 173
    getpriority 140 141        | getrandom 318 278              | getresgid 120 150
    getresuid 118 148          | getrlimit 97 163               | getrusage 98 165
    getsid 124 156             | getsockname 51 204             | getsockopt 55 209
    gettid 186 178             | gettimeofday 96 169            | getuid 102 174
    getxattr 191 8             | ioctl 16 29                    | kill 62 129
    lchown 94 -                | lgetxattr 192 9                | link 86 -
    linkat 265 37              | listxattr 194 11               | llistxattr 195 12
    lseek 8 62                 | lstat 6 -                      | madvise 28 233
    membarrier 324 283         | memfd_create 319 279           | mincore 27 232
    mkdir 83 -                 | mkdirat 258 34                 | mlock 149 228
    mlock2 325 284             | mmap 9 222                     | mprotect 10 226
    mremap 25 216              | msync 26 227                   | munlock 150 229
    munmap 11 215              | nanosleep 35 101               | newfstatat 262 79
    open 2 -                   | openat 257 56                  | pause 34 -
    pidfd_open 434 434         | pidfd_send_signal 424 424      | pipe 22 -
    pipe2 293 59               | poll 7 -                       | ppoll 271 73
    prctl 157 167              | pread64 17 67                  | preadv 295 69
    preadv2 327 286            | prlimit64 302 261              | pselect6 270 72
    pwrite64 18 68             | pwritev 296 70                 | pwritev2 328 287
    read 0 63                  | readahead 187 213              | readlink 89 -
    readlinkat 267 78          | readv 19 65                    | recvfrom 45 207
    recvmsg 47 212             | rename 82 -                    | renameat 264 38
    renameat2 316 276          | restart_syscall 219 128        | rmdir 84 -
    rseq 334 293               | rt_sigaction 13 134            | rt_sigpending 127 136
    rt_sigprocmask 14 135      | rt_sigreturn 15 139            | rt_sigsuspend 130 133
    rt_sigtimedwait 128 137    | sched_get_priority_max 146 125 | sched_get_priority_min 147 126
    sched_getaffinity 204 123  | sched_getattr 315 275          | sched_getparam 143 121
    sched_getscheduler 145 120 | sched_rr_get_interval 148 127  | sched_setaffinity 203 122
    sched_yield 24 124         | select 23 -                    | sendfile 40 71
    sendmsg 46 211             | sendto 44 206                  | set_robust_list 273 99
    set_tid_address 218 96     | setfsgid 123 152               | setfsuid 122 151
    setgid 106 144             | setgroups 116 159              | setitimer 38 103
    setpgid 109 154            | setregid 114 143               | setresgid 119 149
    setresuid 117 147          | setreuid 113 145               | setrlimit 160 164
    setsid 112 157             | setsockopt 54 208              | setuid 105 146
    shutdown 48 210            | sigaltstack 131 132            | signalfd 282 -
    signalfd4 289 74           | socketpair 53 199              | splice 275 76
    stat 4 -                   | statfs 137 43                  | statx 332 291
    symlink 88 -               | symlinkat 266 36               | sync_file_range 277 84
    sysinfo 99 179             | tee 276 77                     | tgkill 234 131
    time 201 -                 | timer_create 222 107           | timer_delete 226 111
    timer_getoverrun 225 109   | timer_gettime 224 108          | timer_settime 223 110
    timerfd_create 283 85      | timerfd_gettime 287 87         | timerfd_settime 286 86
    times 100 153              | tkill 200 130                  | truncate 76 45
    umask 95 166               | uname 63 160                   | unlink 87 -
    unlinkat 263 35            | utime 132 -                    | utimensat 280 88
    utimes 235 -               | vfork 58 -                     | wait4 61 260
    waitid 247 95              | write 1 64                     | writev 20 66
"""
_REFUSED = """
    accept 43 202              | accept4 288 242           | acct 163 89
    add_key 248 217            | adjtimex 159 171          | bind 49 200
    bpf 321 280                | chroot 161 51             | clock_settime 227 112
    connect 42 203             | delete_module 176 106     | execve 59 221
    execveat 322 281           | fanotify_init 300 262     | finit_module 313 273
    fremovexattr 199 16        | fsconfig 431 431          | fsetxattr 190 7
    fsmount 432 432            | fsopen 430 430            | fspick 433 433
    init_module 175 105        | inotify_init 253 -        | inotify_init1 294 26
    io_uring_enter 426 426     | io_uring_register 427 427 | io_uring_setup 425 425
    ioperm 173 -               | iopl 172 -                | ioprio_set 251 30
    kcmp 312 272               | kexec_load 246 104        | keyctl 250 219
    listen 50 201              | lremovexattr 198 15       | lsetxattr 189 6
    mbind 237 235              | memfd_secret 447 447      | migrate_pages 256 238
    mknod 133 -                | mknodat 259 33            | modify_ldt 154 -
    mount 165 40               | mount_setattr 442 442     | move_mount 429 429
    move_pages 279 239         | mq_open 240 180           | mq_unlink 241 181
    msgctl 71 187              | msgget 68 186             | msgrcv 70 188
    msgsnd 69 189              | name_to_handle_at 303 264 | open_by_handle_at 304 265
    open_tree 428 428          | perf_event_open 298 241   | personality 135 92
    pidfd_getfd 438 438        | pivot_root 155 41         | process_madvise 440 440
    process_vm_readv 310 270   | process_vm_writev 311 271 | ptrace 101 117
    quotactl 179 60            | reboot 169 142            | removexattr 197 14
    request_key 249 218        | sched_setattr 314 274     | sched_setparam 142 118
    sched_setscheduler 144 119 | semtimedop 220 192        | set_mempolicy 238 237
    setdomainname 171 162      | sethostname 170 161       | setns 308 268
    setpriority 141 140        | settimeofday 164 170      | setxattr 188 5
    shmat 30 196               | shmctl 31 195             | shmget 29 194
    socket 41 198              | sync 162 81               | swapoff 168 225
    swapon 167 224             | syslog 103 116            | umount2 166 39
    unshare 272 97             | userfaultfd 323 282       | vhangup 153 58
"""
_SIGNALS = ("kill", "tgkill", "tkill", "pidfd_send_signal", "rt_sigqueueinfo", "rt_tgsigqueueinfo")


def _numbers(table, column):
    rows = (row.split() for row in table.replace("\n", "|").split("|") if row.strip())
    return {row[0]: int(row[column]) for row in rows if row[column] != "-"}


def _beginning(architecture):
    """Instructions that end a process of another architecture and load the number of the call."""
    return [
        (_LOAD, 0, 0, _ARCHITECTURE_AT),
        (_JUMP_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER_AT),
    ]


def build_filter(machine):
    """The filter's instructions. Raises KeyError for a machine that the tables do not cover."""
    architecture, column = _MACHINES[machine]
    allowed, refused = _numbers(_ALLOWED, column), _numbers(_REFUSED, column)
    refuse, unknown = _ERRNO | errno.EPERM, _ERRNO | errno.ENOSYS
    code = _beginning(architecture)
    if machine == "x86_64":
        code += [(_JUMP_GREATER_EQUAL, 0, 1, _X32_BIT), (_RETURN, 0, 0, unknown)]

    def when(number, *then):
        code.append((_JUMP_EQUAL, 0, len(then), number))
        code.extend(then)

    # A new PID namespace is for the zygote: the kernel refuses it to a program, which has no
    # capability.
    when(
        allowed.pop("clone"),
        (_LOAD, 0, 0, _ARGUMENT_AT),
        (_JUMP_EQUAL, 2, 0, CLONE_NEW_PID_SIGCHLD),
        (_JUMP_ANY_BIT, 0, 1, NEW_NAMESPACES),
        (_RETURN, 0, 0, refuse),
        (_RETURN, 0, 0, _ALLOW),
    )
    count = len(_TERMINAL_QUESTIONS)
    when(
        allowed.pop("ioctl"),
        (_LOAD, 0, 0, _ARGUMENT_AT + 8),
        *((_JUMP_EQUAL, count - at, 0, value) for at, value in enumerate(_TERMINAL_QUESTIONS)),
        (_RETURN, 0, 0, refuse),
        (_RETURN, 0, 0, _ALLOW),
    )
    for name in ("prlimit64", "sched_setaffinity"):  # of the caller itself
        when(
            allowed.pop(name),
            (_LOAD, 0, 0, _ARGUMENT_AT),
            (_JUMP_EQUAL, 1, 0, 0),
            (_RETURN, 0, 0, refuse),
            (_RETURN, 0, 0, _ALLOW),
        )
    # By ranges of numbers with the same action, so that the filter stays short.
    for first, last, action in _ranges(allowed.values(), refused.values(), refuse):
        code += [
            (_JUMP_GREATER_EQUAL, 0, 2, first),
            (_JUMP_GREATER_EQUAL, 1, 0, last + 1),
            (_RETURN, 0, 0, action),
        ]
    return [*code, (_RETURN, 0, 0, unknown)]


def build_signal_filter(machine, pid):
    """A filter that lets a process send signals to `pid`, itself, and to no other of its user."""
    architecture, column = _MACHINES[machine]
    allowed = _numbers(_ALLOWED, column)
    code = _beginning(architecture)
    for name in _SIGNALS:
        if name in allowed:
            code += [
                (_JUMP_EQUAL, 0, 4, allowed[name]),
                (_LOAD, 0, 0, _ARGUMENT_AT),
                (_JUMP_EQUAL, 1, 0, pid),
                (_RETURN, 0, 0, _ERRNO | errno.EPERM),
                (_RETURN, 0, 0, _ALLOW),
            ]
    return [*code, (_RETURN, 0, 0, _ALLOW)]


def _ranges(allowed, refused, refuse):
    """[[first number, last number, action]] over all calls that are listed."""
    actions = {number: refuse for number in refused} | {number: _ALLOW for number in allowed}
    ranges = []
    for number in sorted(actions):
        if ranges and ranges[-1][1] == number - 1 and ranges[-1][2] == actions[number]:
            ranges[-1][1] = number
        else:
            ranges.append([number, number, actions[number]])
    return ranges


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]


def install_filter(code):
    """Install the filter `code` for this process and its descendants.

    Raises OSError where the kernel has no support.
    """
    instructions = b"".join(struct.pack("<HBBI", *instruction) for instruction in code)
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    program = _Program(len(code), instructions)
    if libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.addressof(program), 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "seccomp")
