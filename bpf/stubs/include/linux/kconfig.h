/*
 * bcc force-includes this file from "the kernel source"; this tree stands in for one, so that no
 * kernel headers package is needed. The programs read no kernel structure: only linux-libc-dev.
 */
#ifndef OVERWEAVE_STUB_KCONFIG_H
#define OVERWEAVE_STUB_KCONFIG_H

#define CONFIG_BPF_SYSCALL 1
#define CONFIG_64BIT 1

#include <linux/stddef.h>
#include <linux/types.h>
#include <linux/version.h>

typedef __u8 u8;
typedef __u16 u16;
typedef __u32 u32;
typedef __u64 u64;
typedef __s8 s8;
typedef __s16 s16;
typedef __s32 s32;
typedef __s64 s64;
typedef _Bool bool;
typedef __SIZE_TYPE__ size_t;
typedef unsigned long uintptr_t;
enum { false, true };
#define NULL ((void *)0)

#endif
