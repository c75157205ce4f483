/*
 * 64-bit division for C programs on 32-bit x86: what gcc calls from its support
 * library. Debian's 32-bit libgcc is no replacement, it needs a Pentium Pro.
 */

typedef unsigned long long u64;
typedef long long s64;
typedef unsigned int u32;

/* high:low / by, where high < by: one machine instruction. */
static u32 narrow(u32 high, u32 low, u32 by, u32 *rest)
{
	u32 quotient;

	__asm__("divl %4" : "=a"(quotient), "=d"(*rest) : "0"(low), "1"(high), "rm"(by));
	return quotient;
}

u64 __udivmoddi4(u64 value, u64 by, u64 *rest)
{
	u32 high = value >> 32, low = value, by_high = by >> 32, by_low = by;
	u64 quotient = 0;
	int shift;

	if (by_high == 0) {
		u32 left, first = narrow(0, high, by_low, &left); /* traps on 0, as it should */

		quotient = (u64)first << 32 | narrow(left, low, by_low, &left);
		if (rest)
			*rest = left;
		return quotient;
	}

	/* The divisor has more than 32 bits, so the quotient has fewer: long division. */
	if (high >= by_high) {
		for (shift = __builtin_clz(by_high) - __builtin_clz(high); shift >= 0; shift--) {
			quotient <<= 1;
			if (value >= by << shift) {
				value -= by << shift;
				quotient |= 1;
			}
		}
	}
	if (rest)
		*rest = value;
	return quotient;
}

u64 __udivdi3(u64 value, u64 by)
{
	return __udivmoddi4(value, by, 0);
}

u64 __umoddi3(u64 value, u64 by)
{
	u64 rest;

	__udivmoddi4(value, by, &rest);
	return rest;
}

/* The sign of a quotient is that of both, the sign of a rest that of the value. */
static u64 magnitude(s64 number)
{
	return number < 0 ? -(u64)number : (u64)number;
}

s64 __divmoddi4(s64 value, s64 by, s64 *rest)
{
	u64 left, quotient = __udivmoddi4(magnitude(value), magnitude(by), &left);

	*rest = value < 0 ? -left : left;
	return (value < 0) != (by < 0) ? -quotient : quotient;
}

s64 __divdi3(s64 value, s64 by)
{
	s64 rest;

	return __divmoddi4(value, by, &rest);
}

s64 __moddi3(s64 value, s64 by)
{
	s64 rest;

	__divmoddi4(value, by, &rest);
	return rest;
}
