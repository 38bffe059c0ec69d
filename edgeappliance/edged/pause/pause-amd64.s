# Holds the namespaces of a pod as their process 1: ends with 0 on SIGTERM and SIGINT, collects orphans that ended.
# x86-64, no libc. The signals are blocked and waited for, so no handler is needed.

        .set    SYS_rt_sigprocmask, 14
        .set    SYS_wait4, 61
        .set    SYS_rt_sigtimedwait, 128
        .set    SYS_exit_group, 231
        .set    SIG_BLOCK, 0
        .set    SIGCHLD, 17
        .set    WNOHANG, 1

        .section .rodata
        .balign 8
signals:                                # SIGINT (2), SIGTERM (15), SIGCHLD (17): bit n-1
        .quad   0x14002

        .text
        .globl  _start
_start:
        mov     $SYS_rt_sigprocmask, %eax
        mov     $SIG_BLOCK, %edi
        lea     signals(%rip), %rsi
        xor     %edx, %edx
        mov     $8, %r10d
        syscall
        jmp     reap                    # what ended before that told nobody
wait:
        mov     $SYS_rt_sigtimedwait, %eax
        lea     signals(%rip), %rdi
        xor     %esi, %esi
        xor     %edx, %edx              # no time-out
        mov     $8, %r10d
        syscall
        cmp     $SIGCHLD, %eax
        je      reap
        test    %eax, %eax
        js      wait                    # interrupted: stopped and continued, traced
        xor     %edi, %edi
        mov     $SYS_exit_group, %eax
        syscall
reap:                                   # one SIGCHLD may stand for many
        mov     $SYS_wait4, %eax
        mov     $-1, %rdi
        xor     %esi, %esi
        mov     $WNOHANG, %edx
        xor     %r10d, %r10d
        syscall
        test    %eax, %eax
        jg      reap
        jmp     wait

        .section .note.GNU-stack, "", %progbits
