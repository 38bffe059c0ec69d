@ Holds the namespaces of a pod as their process 1: ends with 0 on SIGTERM and SIGINT, collects orphans that ended.
@ ARM (EABI, ARMv6 and newer), no libc. The signals are blocked and waited for, so no handler is needed.

        .arch   armv6
        .arm

        .set    SYS_wait4, 114
        .set    SYS_rt_sigprocmask, 175
        .set    SYS_rt_sigtimedwait, 177
        .set    SYS_exit_group, 248
        .set    SIG_BLOCK, 0
        .set    SIGCHLD, 17
        .set    WNOHANG, 1

        .text
        .globl  _start
_start:
        mov     r7, #SYS_rt_sigprocmask
        mov     r0, #SIG_BLOCK
        adr     r1, signals
        mov     r2, #0
        mov     r3, #8
        svc     #0
        b       reap                    @ what ended before that told nobody
wait:
        mov     r7, #SYS_rt_sigtimedwait
        adr     r0, signals
        mov     r1, #0
        mov     r2, #0                  @ no time-out
        mov     r3, #8
        svc     #0
        cmp     r0, #SIGCHLD
        beq     reap
        cmp     r0, #0
        blt     wait                    @ interrupted: stopped and continued, traced
        mov     r0, #0
        mov     r7, #SYS_exit_group
        svc     #0
reap:                                   @ one SIGCHLD may stand for many
        mov     r7, #SYS_wait4
        mvn     r0, #0
        mov     r1, #0
        mov     r2, #WNOHANG
        mov     r3, #0
        svc     #0
        cmp     r0, #0
        bgt     reap
        b       wait

        .balign 8
signals:                                @ SIGINT (2), SIGTERM (15), SIGCHLD (17): bit n-1
        .word   0x14002, 0

        .section .note.GNU-stack, "", %progbits
